"""`kneegrade serve`: films from the network to results at their destinations.

`node` (DICOM) and `rest` receive films into the `spool`; workers grade them there (`film_worker`, `spool_task`);
`destinations` sends the results on; `reading` shows them to readers. `supervisor` starts the processes from `settings`.
Modules are imported directly, because each process needs other optional packages.
"""
