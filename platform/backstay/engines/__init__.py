"""Where Ray comes in: fit (Train), search (Tune), convert (Data), compare (tasks)."""
