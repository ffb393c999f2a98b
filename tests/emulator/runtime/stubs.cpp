// SPDX-License-Identifier: BSD-3-Clause
// Every exported name exists: what no other file implements stops with its name and
// cudaErrorNotSupported.
#include <cstdio>

namespace emu {
int unsupported(const char* name);
}

// Weak, so that an implementation in another file wins.
#define SYMBOL(name)                                                     \
    extern "C" __attribute__((weak, visibility("default"))) int name();  \
    extern "C" __attribute__((weak, visibility("default"))) int name() { \
        return emu::unsupported(#name);                                  \
    }
// Work runs at once in every stream, so the per-thread variants are jumps to the usual ones.
#if defined(__x86_64__)
#define THREAD(name, base) \
    asm(".globl " #name "\n.type " #name ", @function\n" #name ": jmp " #base "@PLT\n");
#elif defined(__aarch64__)
#define THREAD(name, base) \
    asm(".globl " #name "\n.type " #name ", %function\n" #name ": b " #base "\n");
#endif
#include "runtime/symbols.def"
