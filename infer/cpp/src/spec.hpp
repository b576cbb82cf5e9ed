// The description that travels with a model (infer/spec.py), and the shapes its engine takes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace verydeep {

enum class Filter { bicubic, bilinear };

struct Preprocessing {
  std::array<float, 3> mean_rgb{};
  std::array<std::uint8_t, 3> mean_colour{};  // mean_rgb in whole levels, what regions show outside the image
  std::array<float, 3> std_rgb{1, 1, 1};
  Filter filter = Filter::bicubic;
  bool apply_exif = false;
  bool long_side_down = false;      // "floor"; otherwise to the nearest integer
  bool torchvision_center = false;  // half offsets to even; otherwise down
};

struct ModelSpec {
  std::string name, net, task, interface, precision;
  std::vector<std::string> classes, class_names, outputs;
  Preprocessing preprocessing;
  std::pair<int, int> train_range_px{};
  int test_short_px = 0, crop_px = 224, stride_px = 32, max_views = 0, boxes = 0;
  bool fixed_size = false;

  bool has(const std::string& output) const {
    return std::find(outputs.begin(), outputs.end(), output) != outputs.end();
  }
};

// Raises Error (unusable_engine) for what is no spec.
ModelSpec parse_spec(const std::string& json);

// Compares an output of the graph with the spec. found: its second dimension, below 0 where it is not fixed.
// Raises Error (unusable_engine).
void check_output(const ModelSpec& spec, const std::string& path, const std::string& output, bool right_type,
                  std::int64_t found);

struct Extent {
  int min = 0, opt = 0, max = 0;
  bool holds(int value) const { return min <= value && value <= max; }
  bool operator==(const Extent& other) const { return min == other.min && opt == other.opt && max == other.max; }
};

// What an engine takes in one optimisation profile.
struct ShapeRange {
  std::string name;
  Extent views, height_px, width_px, rescaled_px, source_px, taps;
  bool regions = false;  // the engine's views are regions (infer/graph_inputs.py)
  std::string explain() const;
};

// Of an ONNX model: crops, and dense views up to an aspect of 8:3.
std::vector<ShapeRange> default_shapes(const ModelSpec& spec, int largest_short_px);

}  // namespace verydeep
