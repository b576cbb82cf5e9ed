#include "feed.hpp"

#include <algorithm>
#include <atomic>
#include <tuple>

namespace verydeep {
namespace {

Pixels cut(const Pixels& image, const Box& box) {
  Pixels part{box[2], box[3], std::vector<std::uint8_t>(static_cast<std::size_t>(3) * box[2] * box[3])};
  for (int y = 0; y < part.height; ++y)
    std::copy_n(image.at(box[0] + y, box[1]), 3 * static_cast<std::size_t>(part.width), part.at(y, 0));
  return part;
}

// Puts an image into another, its upper left at (top, left).
void paste(const Pixels& part, Pixels& whole, int top, int left) {
  for (int y = 0; y < part.height; ++y)
    std::copy_n(part.at(y, 0), 3 * static_cast<std::size_t>(part.width), whole.at(top + y, left));
}

// The smallest rectangle with all of the views in it.
Box cover(const std::vector<View>& views) {
  int top = 1 << 30, left = 1 << 30, bottom = 0, right = 0;
  for (const View& view : views) {
    const Box& box = view.box;
    top = std::min(top, box[0]);
    left = std::min(left, box[1]);
    bottom = std::max(bottom, box[0] + box[2]);
    right = std::max(right, box[1] + box[3]);
  }
  return {top, left, bottom - top, right - left};
}

// Index tables of views in an image of `width`, where each has its upper left at (top, left) of `places`.
void add_indices(Feed& feed, const std::vector<View>& views, int width,
                 const std::vector<std::pair<int, int>>& places) {
  feed.views = static_cast<int>(views.size());
  feed.height = views.front().size_px().height;
  feed.width = views.front().size_px().width;
  feed.rows.reserve(static_cast<std::size_t>(feed.views) * feed.height);
  feed.cols.reserve(static_cast<std::size_t>(feed.views) * feed.width);
  for (std::size_t i = 0; i < views.size(); ++i) {
    const auto [top, left] = places[i];
    for (int y = 0; y < feed.height; ++y) feed.rows.push_back((top + y) * width);
    for (int x = 0; x < feed.width; ++x) feed.cols.push_back(left + (views[i].mirrored ? feed.width - 1 - x : x));
  }
}

// Where views lie in what they are cut from, of which (top, left) is the first pixel.
std::vector<std::pair<int, int>> places_of(const std::vector<View>& views, int top, int left) {
  std::vector<std::pair<int, int>> found;
  for (const View& view : views) found.emplace_back(view.box[0] - top, view.box[1] - left);
  return found;
}

// The image of a feed, as it is.
void add_image(Feed& feed, const Pixels& image) {
  feed.image = &image;
  feed.columns = identity_taps(image.width);
  feed.lines = identity_taps(image.height);
  feed.rescaled_height = image.height;
  feed.rescaled_width = image.width;
}

// How many squares of a side an atlas has in a row, and rows: as large as an engine takes images.
int squares_across(const std::vector<ShapeRange>& shapes, Size view) {
  int largest = 0;
  for (const ShapeRange& shape : shapes)
    if (shape.height_px.holds(view.height) && shape.width_px.holds(view.width))
      largest = std::max(largest, std::min(shape.rescaled_px.max, shape.source_px.max));
  return std::max(1, largest / view.width);
}

// The squares of views, each once, in rows of `across`; where each view's is.
Pixels atlas_of(Source& source, const std::vector<View>& views, int across, std::vector<std::pair<int, int>>& places) {
  using Key = std::tuple<int, Box, std::optional<Box>>;
  std::map<Key, std::pair<int, int>> known;
  std::vector<Pixels> squares;
  const int side = views.front().resize_px;
  for (const View& view : views) {
    const int number = static_cast<int>(squares.size());
    const auto [found, is_new] =
        known.emplace(Key{view.short_side_px, view.box, view.inner},
                      std::make_pair(number / across * side, number % across * side));
    if (is_new) squares.push_back(source.square(view));
    places.push_back(found->second);
  }

  const int count = static_cast<int>(squares.size());
  Pixels atlas{(count + across - 1) / across * side, std::min(count, across) * side, {}};
  atlas.values.resize(static_cast<std::size_t>(3) * atlas.height * atlas.width);
  for (int i = 0; i < count; ++i)
    paste(squares[static_cast<std::size_t>(i)], atlas, i / across * side, i % across * side);
  return atlas;
}

}  // namespace

Source::Source(Pixels image, const ModelSpec& spec) : image_(std::move(image)), spec_(spec) {
  static std::atomic<std::uint64_t> last{0};
  id_ = ++last;
}

const Pixels& Source::rescaled(int short_side_px) {
  if (short_side_px == kAsLoaded) return image_;
  auto found = rescaled_.find(short_side_px);
  if (found == rescaled_.end()) {
    const Size to = rescaled_px(size(), short_side_px, spec_.preprocessing.long_side_down);
    found = rescaled_.emplace(short_side_px, resize(image_, to.height, to.width, spec_.preprocessing.filter)).first;
  }
  return found->second;
}

Pixels Source::square(const View& view) {
  const Pixels& from = rescaled(view.short_side_px);
  const Size to = view.resized_px();
  Pixels resized = resize(cut(from, view.box), to.height, to.width, spec_.preprocessing.filter);
  if (!view.inner) return resized;

  const Size whole = view.size_px();
  Pixels square{whole.height, whole.width, {}};
  square.values.resize(static_cast<std::size_t>(3) * whole.height * whole.width);
  const std::uint8_t* colour = from.at(from.height - 1, from.width - 1);
  for (std::size_t i = 0; i < square.values.size(); ++i) square.values[i] = colour[i % 3];
  paste(resized, square, (*view.inner)[0], (*view.inner)[1]);
  return square;
}

void for_each_call(const Backend& backend, Source& source, const std::vector<View>& plan,
                   const std::function<void(const Feed&, const std::vector<std::size_t>&)>& run) {
  const ModelSpec& spec = backend.spec();
  using Key = std::array<int, 4>;  // the scale of what is cut, and sizes: views that can share a call
  std::map<Key, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const Size seen = plan[i].size_px();
    const int scale = plan[i].resize_px ? 0 : plan[i].short_side_px;  // squares of all scales lie in one atlas
    groups[{scale, plan[i].resize_px, seen.height, seen.width}].push_back(i);
  }

  for (const auto& [key, members] : groups) {
    const Size view_px{key[2], key[3]};
    const int across = squares_across(backend.shapes(), view_px);
    std::size_t most = backend.views_per_call(view_px);
    if (spec.max_views) most = std::min<std::size_t>(most, static_cast<std::size_t>(spec.max_views));
    if (key[1]) most = std::min(most, static_cast<std::size_t>(across) * static_cast<std::size_t>(across));

    for (std::size_t start = 0; start < members.size(); start += most) {
      const std::vector<std::size_t> places(members.begin() + static_cast<std::ptrdiff_t>(start),
                                            members.begin() + static_cast<std::ptrdiff_t>(
                                                                  std::min(start + most, members.size())));
      std::vector<View> views;
      for (std::size_t place : places) views.push_back(plan[place]);
      const View& first = views.front();
      Feed feed;

      if (first.resize_px) {
        std::vector<std::pair<int, int>> origins;
        const Pixels atlas = atlas_of(source, views, across, origins);
        add_image(feed, atlas);
        add_indices(feed, views, atlas.width, origins);
        run(feed, places);
        continue;
      }

      const Size to = rescaled_px(source.size(), first.short_side_px, spec.preprocessing.long_side_down);
      if (spec.interface == "views" && backend.rescales(source.size(), to, view_px)) {
        feed.image = &source.image();
        feed.image_id = source.id();
        feed.columns = make_taps(source.size().width, to.width, spec.preprocessing.filter);
        feed.lines = make_taps(source.size().height, to.height, spec.preprocessing.filter);
        feed.rescaled_height = to.height;
        feed.rescaled_width = to.width;
        add_indices(feed, views, to.width, places_of(views, 0, 0));
        run(feed, places);
        continue;
      }

      const Box box = cover(views);
      const Pixels part = cut(source.rescaled(first.short_side_px), box);
      add_image(feed, part);
      add_indices(feed, views, part.width, places_of(views, box[0], box[1]));
      run(feed, places);
    }
  }
}

}  // namespace verydeep
