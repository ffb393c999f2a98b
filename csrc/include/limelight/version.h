// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/export.h"

namespace limelight {

/// Version of the library that is linked, e.g. "0.1.0".
LIMELIGHT_API const char* version();

/// Architectures whose kernels this build holds, e.g. "80 86 90 PTX80".
LIMELIGHT_API const char* build_architectures();

}  // namespace limelight
