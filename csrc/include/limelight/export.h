// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#define LIMELIGHT_API __attribute__((visibility("default")))
