"""`python -m kneegrade.cli`."""

from kneegrade.cli import main

main()
