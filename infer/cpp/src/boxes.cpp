#include "boxes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace verydeep {
namespace {

constexpr double kMergeAt = 0.75;  // boxes that match worse are left apart
constexpr double kNever = std::numeric_limits<double>::infinity();

double area(const Edges& box) { return (box[2] - box[0]) * (box[3] - box[1]); }

// Distance of the centres in sides of a square as large as the two boxes on average, plus 1 - IoU.
double match(const Edges& box, const Edges& other) {
  const double across = std::min(box[2], other[2]) - std::max(box[0], other[0]);
  const double down = std::min(box[3], other[3]) - std::max(box[1], other[1]);
  const double both = std::max(across, 0.0) * std::max(down, 0.0);
  const double one = area(box), two = area(other);
  const double apart = std::hypot(box[0] + box[2] - other[0] - other[2], box[1] + box[3] - other[1] - other[3]) / 2;
  return apart / std::sqrt((one + two) / 2) + 1 - both / (one + two - both);
}

}  // namespace

std::vector<std::vector<Edges>> window_boxes(const Map& map, const View& view, Size image, const ModelSpec& spec) {
  const Size rescaled = rescaled_px(image, view.short_side_px, spec.preprocessing.long_side_down);
  const double across = static_cast<double>(image.width) / rescaled.width;
  const double down = static_cast<double>(image.height) / rescaled.height;
  const double crop = spec.crop_px;
  const std::size_t positions = static_cast<std::size_t>(map.height) * map.width;
  std::vector<std::vector<Edges>> found(static_cast<std::size_t>(map.channels / 4));
  for (std::size_t c = 0; c < found.size(); ++c)
    for (int i = 0; i < map.height; ++i)
      for (int j = 0; j < map.width; ++j) {
        const auto value = [&](std::size_t k) {
          return static_cast<double>(map.values[(4 * c + k) * positions + static_cast<std::size_t>(i) * map.width + j]) * crop;
        };
        const double x = (view.box[1] + j * spec.stride_px + crop / 2 + value(0)) * across;
        const double y = (view.box[0] + i * spec.stride_px + crop / 2 + value(1)) * down;
        // Not std::max: a number that is none stays none.
        const double w = value(2) * across, h = value(3) * down;
        const double width = w < 1 ? 1 : w, height = h < 1 ? 1 : h;
        found[c].push_back({x - width / 2, y - height / 2, x + width / 2, y + height / 2});
      }
  return found;
}

Merged merge_boxes(const std::vector<Edges>& boxes) {
  const std::size_t count = boxes.size();
  std::vector<Edges> merged = boxes;
  std::vector<std::vector<std::size_t>> groups(count);
  std::vector<std::vector<double>> scores(count, std::vector<double>(count, kNever));  // of pairs i < j
  std::vector<std::size_t> best(count, 0);
  std::vector<double> least(count, kNever);
  const auto search = [&](std::size_t row) {
    best[row] = static_cast<std::size_t>(std::min_element(scores[row].begin(), scores[row].end()) - scores[row].begin());
    least[row] = scores[row][best[row]];
  };
  for (std::size_t i = 0; i < count; ++i) {
    groups[i] = {i};
    for (std::size_t j = i + 1; j < count; ++j) scores[i][j] = match(boxes[i], boxes[j]);
    search(i);
  }
  while (count) {
    const auto low = static_cast<std::size_t>(std::min_element(least.begin(), least.end()) - least.begin());
    if (!(least[low] <= kMergeAt)) break;
    const std::size_t high = best[low];
    groups[low].insert(groups[low].end(), groups[high].begin(), groups[high].end());
    groups[high].clear();
    Edges mean{};
    for (const std::size_t place : groups[low])
      for (std::size_t k = 0; k < 4; ++k) mean[k] += boxes[place][k];
    for (double& edge : mean) edge /= static_cast<double>(groups[low].size());
    merged[low] = mean;
    for (std::size_t other = 0; other < count; ++other) scores[high][other] = scores[other][high] = kNever;
    least[high] = kNever;
    for (std::size_t other = 0; other < count; ++other)
      if (other != low && !groups[other].empty())
        scores[std::min(low, other)][std::max(low, other)] = match(merged[low], merged[other]);
    for (std::size_t row = 0; row < count; ++row) {
      const bool changed = row == low || best[row] == high || (row < low && (best[row] == low || scores[row][low] <= least[row]));
      if (changed && !groups[row].empty()) search(row);
    }
  }
  Merged result;
  for (std::size_t place = 0; place < count; ++place) {
    if (groups[place].empty()) continue;
    std::sort(groups[place].begin(), groups[place].end());
    result.boxes.push_back(merged[place]);
    result.groups.push_back(std::move(groups[place]));
  }
  return result;
}

std::vector<std::vector<double>> posterior_of(const Map& map) {
  const std::size_t positions = static_cast<std::size_t>(map.height) * map.width;
  const auto channels = static_cast<std::size_t>(map.channels);
  std::vector<std::vector<double>> found(positions, std::vector<double>(channels));
  for (std::size_t p = 0; p < positions; ++p) {
    double largest = -kNever, sum = 0.0;
    for (std::size_t c = 0; c < channels; ++c) largest = std::max(largest, static_cast<double>(map.values[c * positions + p]));
    for (std::size_t c = 0; c < channels; ++c) sum += found[p][c] = std::exp(map.values[c * positions + p] - largest);
    for (double& value : found[p]) value /= sum;
  }
  return found;
}

Rectangle inside(const Edges& edges, Size image) {
  const double left = std::min(std::max(edges[0], 0.0), image.width - 1.0);
  const double top = std::min(std::max(edges[1], 0.0), image.height - 1.0);
  const double right = std::max(std::min(edges[2], static_cast<double>(image.width)), left + 1);
  const double bottom = std::max(std::min(edges[3], static_cast<double>(image.height)), top + 1);
  return {left + 1, top + 1, right, bottom};
}

}  // namespace verydeep
