// What the app and its module for videos (video.cpp) say to each other.
#pragma once

#include <cstddef>
#include <cstdint>

struct Frame {  // BGR; the pixels live until the next one is read
  const std::uint8_t* pixels;
  int height, width;  // px
  std::ptrdiff_t row_stride;
};

using OpenVideo = void*(const char* file, int camera);  // the camera where file is null; null where it does not open
using ReadFrame = bool(void* video, Frame* frame);      // false at the end
using CloseVideo = void(void* video);
