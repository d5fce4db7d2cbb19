"""rl_zoo3's enjoy script with ``--algo rainbow``."""

from rl_zoo3.enjoy import enjoy

from sb3_rainbow.zoo import register

if __name__ == "__main__":
    register()
    enjoy()
