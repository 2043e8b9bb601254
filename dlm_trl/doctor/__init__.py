"""What this machine can run and what keeps it from running the rest: findings with a remedy, for `dlm-trl doctor`.

Nothing here installs or changes anything. `machine` and `packages` return findings; `launch_files` says which of
accelerate's launch files can work.
"""
