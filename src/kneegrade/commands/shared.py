"""Old name of `kneegrade.commands.options`."""

from kneegrade.commands.options import *  # noqa: F403
