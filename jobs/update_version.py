#!/usr/bin/env python3
r"""Fit the next version on a cluster and publish it.

    ray job submit --working-dir . -- python jobs/update_version.py \
        --registry s3://bucket/registry --space movies --dataset /shared/ml-25m --until 0.6 \
        --workers 4 --gpu

Takes the options of `backstay update`. All machines of the cluster must be able to open
the paths: object store URLs, or shared folders.
"""

from _driver import drive

if __name__ == "__main__":
    drive("update")
