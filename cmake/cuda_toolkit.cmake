# SPDX-License-Identifier: BSD-3-Clause
# The CUDA compiler: what CUDACXX (or CMAKE_CUDA_COMPILER) names, else the nvidia-cuda-nvcc wheel of the building Python.
# Defines the target limelight_cudart and LIMELIGHT_CUDART_DIR.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util, pathlib; print(next((r for p in importlib.util.find_spec('nvidia').submodule_search_locations for r in [pathlib.Path(p) / 'cu13'] if (r / 'bin' / 'nvcc').exists()), ''))"
    OUTPUT_VARIABLE wheel_root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT wheel_root)
    message(FATAL_ERROR "limelight: no CUDA compiler. Either pip install nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* "
      "nvidia-nvvm==13.0.* nvidia-cuda-cccl==13.0.* nvidia-cuda-runtime==13.0.* for ${Python_EXECUTABLE}, "
      "or set CUDACXX to an nvcc of CUDA 12.8 or newer.")
  endif()
  set(CMAKE_CUDA_COMPILER "${wheel_root}/bin/nvcc")
  # nvcc's profile names lib64; the wheels have lib.
  set(ENV{LIBRARY_PATH} "${wheel_root}/lib:$ENV{LIBRARY_PATH}")
endif()

set(CMAKE_CUDA_ARCHITECTURES 80-virtual)
set(CMAKE_CUDA_RUNTIME_LIBRARY None)    # linked below by path: the wheel has no libcudart.so
enable_language(CUDA)
set(CMAKE_CUDA_IMPLICIT_LINK_LIBRARIES)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
  message(FATAL_ERROR "limelight: ${CMAKE_CUDA_COMPILER} is CUDA ${CMAKE_CUDA_COMPILER_VERSION}, needed: 12.8 or newer")
endif()

get_filename_component(cuda_root "${CMAKE_CUDA_COMPILER}" REALPATH)
get_filename_component(cuda_root "${cuda_root}/../.." ABSOLUTE)
string(REGEX MATCH "^[0-9]+" cuda_major "${CMAKE_CUDA_COMPILER_VERSION}")
find_file(LIMELIGHT_CUDART libcudart.so.${cuda_major} REQUIRED
  HINTS ${cuda_root}/lib ${cuda_root}/lib64 ${cuda_root}/targets/x86_64-linux/lib ${cuda_root}/targets/sbsa-linux/lib
        ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES})
get_filename_component(LIMELIGHT_CUDART_DIR "${LIMELIGHT_CUDART}" DIRECTORY)
add_library(limelight_cudart INTERFACE)
target_link_libraries(limelight_cudart INTERFACE "${LIMELIGHT_CUDART}")
target_include_directories(limelight_cudart SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
