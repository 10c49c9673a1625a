"""`python -m kneegrade`: the same as the command `kneegrade`."""

from kneegrade.commands import main

main()
