#!/usr/bin/env python3
r"""Convert a large table to an older version on a cluster.

    ray job submit --working-dir . -- python jobs/convert_table.py \
        --registry s3://bucket/registry --space movies --from 4 --to 0 \
        --input s3://bucket/items --output s3://bucket/items-v0

Takes the options of `backstay convert`. All machines of the cluster must be able to open
the paths: object store URLs, or shared folders.
"""

from _driver import drive

if __name__ == "__main__":
    drive("convert")
