"""python -m noisy_clf.cli is train-noisy-clf: for torchrun."""
from noisy_clf.cli.train import train_noisy_clf

train_noisy_clf()
