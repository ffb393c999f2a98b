# SPDX-License-Identifier: BSD-3-Clause
"""limelight inside other libraries. Each module imports its library only when it is used."""
