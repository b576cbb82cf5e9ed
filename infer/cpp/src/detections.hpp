// What becomes of the answers of a MultiBox net and of a net of regions (infer/boxes/{multibox,detecting,overlap}.py):
// the same arithmetic, in double.
#pragma once

#include <vector>

#include "backend.hpp"

namespace verydeep {

// Places of the boxes that greedy non-maximum suppression keeps, the best score first: a box goes that shares more than
// `most` (intersection over union) with a better one of its class that stays; of equal scores the first is better.
std::vector<std::size_t> suppress(const std::vector<Rectangle>& boxes, const std::vector<double>& scores,
                                  const std::vector<int>& classes, double most);

// Boxes of a MultiBox net's answer [1, boxes, 5] to an image: cut off at its edges, the best first, at most 200.
std::vector<Rectangle> found_boxes(const Map& answer, Size image);

// An object: its class, the posterior, and which of the regions it is.
struct Kept {
  int label = 0;
  float score = 0;
  std::size_t region = 0;
};

// The objects by posteriors [regions, classes], of which the last is background: those of `least` or more, after
// suppression in each class, the best first, at most 300.
std::vector<Kept> find_objects(const std::vector<float>& posterior, const std::vector<Rectangle>& boxes, int classes,
                               double least);

}  // namespace verydeep
