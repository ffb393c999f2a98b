# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``python -m limelight``; each module has ``add_arguments(parser)`` and
``run(arguments) -> exit code``."""
