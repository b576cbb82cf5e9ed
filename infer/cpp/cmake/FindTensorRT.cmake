# TensorRT::nvinfer, from a release's folder, NVIDIA's Debian packages, or headers and the library of a Python wheel.
#
#   TENSORRT_ROOT     folder with include/ and lib/
#   TENSORRT_INCLUDE  folder of NvInferRuntime.h, 10.3 or newer; the library must be of the same version
#   TENSORRT_LIBRARY  libnvinfer.so…, as in site-packages/tensorrt_libs
#   CUDA_INCLUDE      folder of cuda_runtime_api.h, which TensorRT's headers include
find_path(
  TENSORRT_INCLUDE NvInferRuntime.h
  HINTS ${TENSORRT_ROOT} ENV TENSORRT_ROOT
  PATH_SUFFIXES include include/x86_64-linux-gnu include/aarch64-linux-gnu)
find_library(
  TENSORRT_LIBRARY
  NAMES nvinfer libnvinfer.so.11 libnvinfer.so.10
  HINTS ${TENSORRT_ROOT} ENV TENSORRT_ROOT
  PATH_SUFFIXES lib lib64)
find_path(
  CUDA_INCLUDE cuda_runtime_api.h
  HINTS ENV CUDA_HOME ENV CUDA_PATH
  PATHS /usr/local/cuda
  PATH_SUFFIXES include)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT
  REQUIRED_VARS TENSORRT_LIBRARY TENSORRT_INCLUDE CUDA_INCLUDE
  REASON_FAILURE_MESSAGE
    "set TENSORRT_ROOT to an unpacked release of TensorRT 10.3 or newer and CUDA_HOME to CUDA's headers, or leave out -DVERYDEEP_TENSORRT=ON")
if(TensorRT_FOUND AND NOT TARGET TensorRT::nvinfer)
  add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
  set_target_properties(TensorRT::nvinfer PROPERTIES IMPORTED_LOCATION "${TENSORRT_LIBRARY}"
                                                     INTERFACE_INCLUDE_DIRECTORIES "${TENSORRT_INCLUDE};${CUDA_INCLUDE}")
endif()
