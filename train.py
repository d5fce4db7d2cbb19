"""rl_zoo3's train script with ``--algo rainbow``."""

from rl_zoo3.train import train

from sb3_rainbow.zoo import register

if __name__ == "__main__":
    register()
    train()
