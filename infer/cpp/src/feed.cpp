#include "feed.hpp"

#include <algorithm>
#include <atomic>

namespace verydeep {
namespace {

Pixels cut(const Pixels& image, const Box& box) {
  Pixels part{box[2], box[3], std::vector<std::uint8_t>(static_cast<std::size_t>(3) * box[2] * box[3])};
  for (int y = 0; y < part.height; ++y)
    std::copy_n(image.at(box[0] + y, box[1]), 3 * static_cast<std::size_t>(part.width), part.at(y, 0));
  return part;
}

// The view's rectangle in what it is cut from.
Box cut_of(const View& view) {
  return view.resize_px ? Box{0, 0, view.resize_px, view.resize_px} : view.box;
}

// The smallest rectangle with all of the views in it.
Box cover(const std::vector<View>& views) {
  int top = 1 << 30, left = 1 << 30, bottom = 0, right = 0;
  for (const View& view : views) {
    const Box box = cut_of(view);
    top = std::min(top, box[0]);
    left = std::min(left, box[1]);
    bottom = std::max(bottom, box[0] + box[2]);
    right = std::max(right, box[1] + box[3]);
  }
  return {top, left, bottom - top, right - left};
}

// Index tables of views in an image of `width` whose upper left is (top, left) of what the views are cut from.
void add_indices(Feed& feed, const std::vector<View>& views, int width, int top, int left) {
  feed.views = static_cast<int>(views.size());
  feed.height = views.front().size_px().height;
  feed.width = views.front().size_px().width;
  feed.rows.reserve(static_cast<std::size_t>(feed.views) * feed.height);
  feed.cols.reserve(static_cast<std::size_t>(feed.views) * feed.width);
  for (const View& view : views) {
    const Box box = cut_of(view);
    for (int y = 0; y < feed.height; ++y) feed.rows.push_back((box[0] - top + y) * width);
    for (int x = 0; x < feed.width; ++x)
      feed.cols.push_back(box[1] - left + (view.mirrored ? feed.width - 1 - x : x));
  }
}

}  // namespace

Source::Source(Pixels image, const ModelSpec& spec) : image_(std::move(image)), spec_(spec) {
  static std::atomic<std::uint64_t> last{0};
  id_ = ++last;
}

const Pixels& Source::rescaled(int short_side_px) {
  auto found = rescaled_.find(short_side_px);
  if (found == rescaled_.end()) {
    const Size to = rescaled_px(size(), short_side_px, spec_.preprocessing.long_side_down);
    found = rescaled_.emplace(short_side_px, resize(image_, to.height, to.width, spec_.preprocessing.filter)).first;
  }
  return found->second;
}

const Pixels& Source::square(const View& view) {
  const auto key = std::make_pair(view.short_side_px, view.box);
  auto found = squares_.find(key);
  if (found == squares_.end()) {
    const Pixels part = cut(rescaled(view.short_side_px), view.box);
    found = squares_.emplace(key, resize(part, view.resize_px, view.resize_px, spec_.preprocessing.filter)).first;
  }
  return found->second;
}

void for_each_call(const Backend& backend, Source& source, const std::vector<View>& plan,
                   const std::function<void(const Feed&, const std::vector<std::size_t>&)>& run) {
  const ModelSpec& spec = backend.spec();
  using Key = std::array<int, 8>;  // what is cut from, and the size: views that can share a call
  std::map<Key, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const Box from = plan[i].resize_px ? plan[i].box : Box{};
    const Size seen = plan[i].size_px();
    groups[{plan[i].short_side_px, plan[i].resize_px, from[0], from[1], from[2], from[3], seen.height, seen.width}]
        .push_back(i);
  }
  for (const auto& [key, members] : groups) {
    const Size view_px{key[6], key[7]};
    std::size_t most = backend.views_per_call(view_px);
    if (spec.max_views) most = std::min<std::size_t>(most, static_cast<std::size_t>(spec.max_views));
    for (std::size_t start = 0; start < members.size(); start += most) {
      const std::vector<std::size_t> places(members.begin() + static_cast<std::ptrdiff_t>(start),
                                            members.begin() + static_cast<std::ptrdiff_t>(
                                                                  std::min(start + most, members.size())));
      std::vector<View> views;
      for (std::size_t place : places) views.push_back(plan[place]);
      const View& first = views.front();
      Feed feed;
      const Size to = rescaled_px(source.size(), first.short_side_px, spec.preprocessing.long_side_down);
      if (spec.interface == "views" && !first.resize_px && backend.rescales(source.size(), to, view_px)) {
        feed.image = &source.image();
        feed.image_id = source.id();
        feed.columns = make_taps(source.size().width, to.width, spec.preprocessing.filter);
        feed.lines = make_taps(source.size().height, to.height, spec.preprocessing.filter);
        feed.rescaled_height = to.height;
        feed.rescaled_width = to.width;
        add_indices(feed, views, to.width, 0, 0);
        run(feed, places);
        continue;
      }
      const Box box = cover(views);
      const Pixels part = cut(first.resize_px ? source.square(first) : source.rescaled(first.short_side_px), box);
      feed.image = &part;
      feed.columns = identity_taps(part.width);
      feed.lines = identity_taps(part.height);
      feed.rescaled_height = part.height;
      feed.rescaled_width = part.width;
      add_indices(feed, views, part.width, box[0], box[1]);
      run(feed, places);
    }
  }
}

}  // namespace verydeep
