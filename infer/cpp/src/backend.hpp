// What every runtime offers: an engine's description, and its answer to one call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "spec.hpp"
#include "taps.hpp"
#include "verydeep/verydeep.hpp"
#include "views.hpp"

namespace verydeep {

// Inputs of the view graph (export/graph.py): views of one size, cut from one image.
struct Feed {
  const Pixels* image = nullptr;
  Taps columns, lines;            // to rescaled_width, rescaled_height
  std::vector<std::int32_t> rows;  // [views, height]: flat offset of each row
  std::vector<std::int32_t> cols;  // [views, width]: x of each column
  int rescaled_height = 0, rescaled_width = 0;
  int views = 0, height = 0, width = 0;
};

struct Answer {
  std::vector<float> posterior;          // [views, classes]
  std::vector<std::int32_t> pixel_sums;  // [views, 6]; empty unless asked for
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const ModelSpec& spec() const = 0;
  virtual const std::vector<ShapeRange>& shapes() const = 0;
  virtual const std::string& runtime() const = 0;
  virtual const std::string& self_test() const = 0;  // JSON, empty where the file has none
  virtual bool rescales() const = 0;                 // whether rescaling in the graph is the faster way
  virtual int pixels_per_call() const = 0;           // of views together
  virtual Answer run(const Feed& feed, bool with_pixel_sums) = 0;
};

// By the file's name. Raises Error (unusable_engine).
std::unique_ptr<Backend> open_backend(const std::string& path, const Options& options);
std::unique_ptr<Backend> open_onnx(const std::string& path, const Options& options);
std::unique_ptr<Backend> open_tensorrt(const std::string& path, const Options& options);

}  // namespace verydeep
