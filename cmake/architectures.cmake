# SPDX-License-Identifier: BSD-3-Clause
# Which architectures each set of sm80 tiles and each family is compiled for. Every one is always compiled, at least to
# PTX (seconds).
#   Large needs 160 KB of shared memory a block: sm_80, what sm90's kernels refuse on sm_90, sm_100 until it has its own.
#   Small fits 99 KB: sm_86, sm_89, sm_120; its PTX serves GPUs that no machine code was built for.
#   SM90 has wgmma and setmaxnreg, which only sm_90a has.

if(LIMELIGHT_TARGET STREQUAL "all")
  set(LIMELIGHT_SM80_LARGE_ARCHITECTURES 80-real 90-real 100-real)
  set(LIMELIGHT_SM90_ARCHITECTURES 90a-real)
  set(LIMELIGHT_SM80_SMALL_ARCHITECTURES 86-real 89-real 120-real 80-virtual)
elseif(LIMELIGHT_TARGET STREQUAL "native")
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE capabilities RESULT_VARIABLE failed ERROR_QUIET)
  string(REGEX MATCH "([0-9]+)\\.([0-9])" capability "${capabilities}")
  set(native "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
  set(LIMELIGHT_SM80_LARGE_ARCHITECTURES 80-virtual)
  set(LIMELIGHT_SM80_SMALL_ARCHITECTURES 80-virtual)
  set(LIMELIGHT_SM90_ARCHITECTURES 90a-virtual)
  if(failed OR native STREQUAL "")
    message(STATUS "limelight: no GPU here, building PTX for the emulator only")
  elseif(native MATCHES "^(80|90|100|103)$")
    set(LIMELIGHT_SM80_LARGE_ARCHITECTURES ${native}-real)
    if(native STREQUAL "90")
      set(LIMELIGHT_SM90_ARCHITECTURES 90a-real)
    endif()
  else()
    set(LIMELIGHT_SM80_SMALL_ARCHITECTURES ${native}-real 80-virtual)
  endif()
elseif(LIMELIGHT_TARGET STREQUAL "emulator")
  set(LIMELIGHT_SM80_LARGE_ARCHITECTURES 80-virtual)
  set(LIMELIGHT_SM80_SMALL_ARCHITECTURES 80-virtual)
  set(LIMELIGHT_SM90_ARCHITECTURES 90a-virtual)
else()
  message(FATAL_ERROR "LIMELIGHT_TARGET is '${LIMELIGHT_TARGET}', allowed: all, native, emulator")
endif()

set(LIMELIGHT_ALL_ARCHITECTURES ${LIMELIGHT_SM80_LARGE_ARCHITECTURES} ${LIMELIGHT_SM80_SMALL_ARCHITECTURES})
list(REMOVE_DUPLICATES LIMELIGHT_ALL_ARCHITECTURES)
string(REPLACE ";" " " LIMELIGHT_ARCHITECTURES_TEXT
  "${LIMELIGHT_ALL_ARCHITECTURES};${LIMELIGHT_SM90_ARCHITECTURES}")
message(STATUS "limelight: architectures ${LIMELIGHT_ARCHITECTURES_TEXT}")
