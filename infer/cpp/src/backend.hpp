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

// Inputs of the view graph (export/graph/frame.py): views of one size, cut from one image.
struct Feed {
  const Pixels* image = nullptr;
  std::uint64_t image_id = 0;     // the same for the same pixels; 0: they are of this call alone
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

// An output of one view with a value for each position, [channels, height, width]; `boxes` are of one channel, a box a
// row and 5 wide.
struct Map {
  int channels = 0, height = 0, width = 0;
  std::vector<float> values;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const ModelSpec& spec() const = 0;
  virtual const std::vector<ShapeRange>& shapes() const = 0;
  virtual const std::string& runtime() const = 0;
  // What it computes in, see Classifier::arithmetic.
  virtual const std::string& arithmetic() const = 0;
  virtual const std::string& self_test() const = 0;  // JSON, empty where the file has none
  // Whether the graph is to rescale the image for views of one size, or the host.
  virtual bool rescales(Size image, Size rescaled, Size view) const = 0;
  virtual std::size_t views_per_call(Size view) const = 0;
  virtual Answer run(const Feed& feed, bool with_pixel_sums) = 0;
  // `score_map`, `box_map` or `boxes` of a feed of one view. Raises Error (unusable_engine) where the engine has none.
  virtual Map run_map(const Feed& feed, const std::string& output) = 0;
};

// Raises Error (unusable_engine) unless the model was exported with this output.
void require_output(const ModelSpec& spec, const std::string& output);

// The map in an output's values, of this shape: [1, channels, height, width], or of `boxes` [1, boxes, 5].
// Raises Error (runtime_failure) for another shape.
Map make_map(const std::string& output, std::vector<std::int64_t> shape, const float* values, std::size_t count);

// By the file's name. Raises Error (unusable_engine).
std::unique_ptr<Backend> open_backend(const std::string& path, const Options& options);
std::unique_ptr<Backend> open_onnx(const std::string& path, const Options& options);
std::unique_ptr<Backend> open_tensorrt(const std::string& path, const Options& options);

}  // namespace verydeep
