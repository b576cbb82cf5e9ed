// Frames of a video file or a camera by OpenCV. A module that the app loads where it is asked for them: to load OpenCV
// and what it needs takes longer than to load everything else.
#include "video.hpp"

#include <opencv2/videoio.hpp>

namespace {

struct Video {
  cv::VideoCapture capture;
  cv::Mat frame;
};

}  // namespace

#define VISIBLE extern "C" __attribute__((visibility("default")))

VISIBLE void* open_video(const char* file, int camera) try {
  auto* video = new Video;
  if (file) {
    video->capture.open(file);
  } else if (video->capture.open(camera)) {
    video->capture.set(cv::CAP_PROP_BUFFERSIZE, 1);  // what is seen now, not what was seen some frames ago
  }
  if (video->capture.isOpened()) return video;
  delete video;
  return nullptr;
} catch (const cv::Exception&) {
  return nullptr;
}

VISIBLE bool read_frame(void* video, Frame* frame) try {
  auto& [capture, read] = *static_cast<Video*>(video);
  if (!capture.read(read) || read.type() != CV_8UC3) return false;
  *frame = {read.data, read.rows, read.cols, static_cast<std::ptrdiff_t>(read.step[0])};
  return true;
} catch (const cv::Exception&) {
  return false;
}

VISIBLE void close_video(void* video) { delete static_cast<Video*>(video); }
