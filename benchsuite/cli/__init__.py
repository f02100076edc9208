"""The `bench` command: verbs that parse, call and print. `entry` is where it begins, `app` where it is put together."""
