# OnnxRuntime::OnnxRuntime, from a release's folder, Debian's packages, or headers and the library of a Python wheel.
#
#   ONNXRUNTIME_ROOT     folder with include/ and lib/
#   ONNXRUNTIME_INCLUDE  folder of onnxruntime_cxx_api.h
#   ONNXRUNTIME_LIBRARY  libonnxruntime.so…, as in site-packages/onnxruntime/capi
find_path(
  ONNXRUNTIME_INCLUDE onnxruntime_cxx_api.h
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES include include/onnxruntime onnxruntime include/onnxruntime/core/session)
find_library(
  ONNXRUNTIME_LIBRARY onnxruntime
  HINTS ${ONNXRUNTIME_ROOT} ENV ONNXRUNTIME_ROOT
  PATH_SUFFIXES lib lib64)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime
  REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE
  REASON_FAILURE_MESSAGE
    "set ONNXRUNTIME_ROOT to an unpacked release of ONNX Runtime, or -DVERYDEEP_ONNXRUNTIME=OFF")
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime UNKNOWN IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
                                                            INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE}")
endif()
