"""`kneegrade serve`: films from the network to results at their destinations.

`node` (DICOM) and `rest` receive films into the `spool`; workers grade them there; `delivery` sends the results on.
Modules are imported directly, because each process needs other optional packages.
"""
