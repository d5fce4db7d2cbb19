"""
What a GPU does in one captured gradient step, kernel by kernel.

    python benchmarks/timeline.py --amp

Prints for each kernel when it began (microseconds from the first one), how long it took, on which stream, and its name,
as torch.profiler saw it in one of several replays, which are slower than without a profiler.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch as th
from learner import BATCH, Frames, filled
from torch.profiler import ProfilerActivity, profile

from sb3_rainbow import RainbowDQN

REPLAYS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--rows", type=int, default=2_000, help="transitions in the replay buffer")
    args = parser.parse_args()
    model = filled(
        RainbowDQN("CnnPolicy", Frames(), buffer_size=args.rows, seed=0, device="cuda", compile=True, amp=args.amp)
    )
    model.train(10, BATCH)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        model.train(REPLAYS, BATCH)
        th.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kernels = sorted((event for event in events if event.get("cat") == "kernel"), key=lambda event: event["ts"])
    per_step = len(kernels) // REPLAYS
    step = kernels[-2 * per_step : -per_step]
    for kernel in step:
        start = kernel["ts"] - step[0]["ts"]
        print(f"{start:7.1f} {kernel['dur']:6.1f}  stream {kernel['args']['stream']}  {kernel['name']}")


if __name__ == "__main__":
    main()
