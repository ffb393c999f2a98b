# SPDX-License-Identifier: BSD-3-Clause
# find_package(limelight) defines limelight::limelight; the path comes from `python -m limelight --cmake-dir`.
get_filename_component(_limelight_root "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)
if(NOT TARGET limelight::limelight)
  add_library(limelight::limelight SHARED IMPORTED)
  set_target_properties(limelight::limelight PROPERTIES
    IMPORTED_LOCATION "${_limelight_root}/lib/liblimelight.so"
    INTERFACE_INCLUDE_DIRECTORIES "${_limelight_root}/include")
endif()
set(limelight_FOUND TRUE)
