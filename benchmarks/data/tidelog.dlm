---
dlm_id: 01JTRX0000000000000000000J
dlm_version: 15
base_model: smollm2-135m
---
## tidelog, reference

`tidelog` reads measurements from a tide gauge and writes them into daily files. A daily file is a CSV file with the columns time, level and battery. Levels are given in millimetres above the harbour datum. The command `tidelog start` opens the serial port and logs until it gets SIGTERM. The option `--interval` sets the number of seconds between two measurements; its default is 60. Values below 5 are refused, because the gauge needs four seconds for one measurement. `--port` names the serial device and must be given. The environment variable TIDELOG_DIR says where the daily files are written. If it isn't set, they go to `/var/lib/tidelog`.

::prose::
## Exit codes

Exit code 0 means that the log was closed properly. Exit code 3 means that the serial port could not be opened. Exit code 4 means that the disk was full; the measurements of the last minute are then lost. A second process on the same port ends with exit code 5.

::prose::
## Export

`tidelog export --from DAY --to DAY` joins daily files into one Parquet file. Gaps of up to ten minutes are filled by linear interpolation. Longer gaps stay empty and are listed at the end. The option `--datum chart` subtracts 2,310 from every level. An export of one year takes about eight seconds and needs 200 MB of memory. Files that are older than two years are compressed with zstd. `tidelog verify` compares the checksum of each daily file with the one in its last line. A file whose checksum is wrong is moved to the folder `damaged`.
