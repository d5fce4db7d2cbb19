"""Networks here are tiny: a second thread would wait more than it works."""

import os

import torch as th

th.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
