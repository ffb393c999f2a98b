// SPDX-License-Identifier: BSD-3-Clause
// What cp.async needs of the checks, and what the end of a warp needs of cp.async.
#pragma once
#include <memory>
#include <string>

#include "exec/memory.h"

namespace emu {

// While it lives, accesses observed for the warp belong to one asynchronous copy; `out` gets its check data, if any.
class WatchedCopy {
  public:
    WatchedCopy(Warp& warp, std::shared_ptr<void>& out, uint32_t reading);
    ~WatchedCopy();
    WatchedCopy(const WatchedCopy&) = delete;
    WatchedCopy& operator=(const WatchedCopy&) = delete;

  private:
    Warp& warp_;
};
void observe_copy_done(Warp& warp, void* watched);
void observe_copy_waited(Warp& warp, void* watched);

// As resolve() for loads of size[lane] bytes, 1 to 15, in which alignment is that of the whole copy.
void resolve_partial(Warp& warp, const MemoryOp& m, uint32_t lanes, const uint32_t* size, Resolved& r);

std::string unfinished_copies(Warp& warp, uint32_t lanes);  // empty: none
void finish_all_copies(Warp& warp);

}  // namespace emu
