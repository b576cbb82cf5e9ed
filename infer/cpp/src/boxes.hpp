// Boxes of windows, merged and rated (infer/boxes/finding.py): the same arithmetic, in double.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "backend.hpp"

namespace verydeep {

using Edges = std::array<double, 4>;  // left, top, right, bottom, in the image's pixels

// Boxes of every position of a box net's map of one view, for each class or, of 4 channels, once.
std::vector<std::vector<Edges>> window_boxes(const Map& map, const View& view, Size image, const ModelSpec& spec);

struct Merged {
  std::vector<Edges> boxes;
  std::vector<std::vector<std::size_t>> groups;  // which of the boxes given each is made of
};

// OverFeat's greedy merging of boxes with positive sides, by the default rule of infer/boxes/finding.py.
Merged merge_boxes(const std::vector<Edges>& boxes);

// Softmax over the channels of a map, [positions][channels].
std::vector<std::vector<double>> posterior_of(const Map& map);

// A box cut off at the image's edges.
Rectangle inside(const Edges& edges, Size image);

}  // namespace verydeep
