#include "detections.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace verydeep {
namespace {

constexpr double kProposalsOverlap = 0.7, kObjectsOverlap = 0.3;  // above which the worse of two goes
constexpr std::size_t kMostProposals = 200, kMostObjects = 300;   // of an image

// Of pixels that both ends include; a box that ends before it begins has none.
double area(double xmin, double ymin, double xmax, double ymax) {
  return std::max(xmax - xmin + 1, 0.0) * std::max(ymax - ymin + 1, 0.0);
}

double area(const Rectangle& box) { return area(box.xmin, box.ymin, box.xmax, box.ymax); }

// Intersection over union.
double overlap(const Rectangle& one, const Rectangle& other) {
  const double shared = area(std::max(one.xmin, other.xmin), std::max(one.ymin, other.ymin),
                             std::min(one.xmax, other.xmax), std::min(one.ymax, other.ymax));
  const double joined = area(one) + area(other) - shared;
  return joined > 0 ? shared / joined : 0.0;
}

}  // namespace

std::vector<std::size_t> suppress(const std::vector<Rectangle>& boxes, const std::vector<double>& scores,
                                  const std::vector<int>& classes, double most) {
  std::vector<std::size_t> order(boxes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });

  std::map<int, std::vector<std::size_t>> kept_of;  // by class
  std::vector<std::size_t> kept;
  for (const std::size_t place : order) {
    std::vector<std::size_t>& better = kept_of[classes[place]];
    const bool stays = std::all_of(better.begin(), better.end(), [&](std::size_t other) {
      return overlap(boxes[other], boxes[place]) <= most;
    });
    if (!stays) continue;
    better.push_back(place);
    kept.push_back(place);
  }
  return kept;
}

std::vector<Rectangle> found_boxes(const Map& answer, Size image) {
  std::vector<Rectangle> boxes;
  std::vector<double> scores;
  for (int i = 0; i < answer.height; ++i) {
    const float* values = &answer.values[static_cast<std::size_t>(5) * static_cast<std::size_t>(i)];
    if (!std::all_of(values, values + 5, [](float value) { return std::isfinite(value); })) continue;
    const auto edge = [&](int k, int side) {
      return std::min(std::max(static_cast<double>(values[k]), 0.0), 1.0) * side;
    };
    const double left = edge(0, image.width), top = edge(1, image.height);
    const double right = edge(2, image.width), bottom = edge(3, image.height);
    if (!(left < right && top < bottom)) continue;
    boxes.push_back({left + 1, top + 1, right, bottom});
    scores.push_back(static_cast<double>(values[4]));
  }

  std::vector<Rectangle> found;
  for (const std::size_t place : suppress(boxes, scores, std::vector<int>(boxes.size(), 0), kProposalsOverlap)) {
    if (found.size() == kMostProposals) break;
    found.push_back(boxes[place]);
  }
  return found;
}

std::vector<Kept> find_objects(const std::vector<float>& posterior, const std::vector<Rectangle>& boxes, int classes,
                               double least) {
  std::vector<Kept> rated;
  std::vector<Rectangle> own;
  std::vector<double> scores;
  std::vector<int> labels;
  for (std::size_t region = 0; region < boxes.size(); ++region)
    for (int label = 0; label + 1 < classes; ++label) {
      const float score = posterior[region * static_cast<std::size_t>(classes) + static_cast<std::size_t>(label)];
      if (!(score >= static_cast<float>(least))) continue;
      rated.push_back({label, score, region});
      own.push_back(boxes[region]);
      scores.push_back(static_cast<double>(score));
      labels.push_back(label);
    }

  std::vector<Kept> found;
  for (const std::size_t place : suppress(own, scores, labels, kObjectsOverlap)) {
    if (found.size() == kMostObjects) break;
    found.push_back(rated[place]);
  }
  return found;
}

}  // namespace verydeep
