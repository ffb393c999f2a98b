// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "attention/params.h"

namespace limelight {

// The call with what the host works out once; the number of tiles is each launch's own.
FwdParams derive_forward(const AttentionParams& call);

}  // namespace limelight
