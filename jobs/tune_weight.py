#!/usr/bin/env python3
r"""Search the compatibility weight on a cluster.

    ray job submit --working-dir . -- python jobs/tune_weight.py \
        /shared/ml-25m --out /shared/runs/weights --trials 16 --workers 8

Takes the options of `backstay tune`. All machines of the cluster must be able to open
the paths: object store URLs, or shared folders.
"""

from _driver import drive

if __name__ == "__main__":
    drive("tune")
