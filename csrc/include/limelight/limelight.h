// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "limelight/append.h"
#include "limelight/attention.h"
#include "limelight/decode.h"
#include "limelight/gemm.h"
#include "limelight/status.h"
#include "limelight/version.h"
