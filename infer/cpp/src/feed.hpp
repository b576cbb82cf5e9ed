// Calls of the view graph for the views of one image (infer/graph_inputs.py).
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "backend.hpp"

namespace verydeep {

// The image with its rescaled versions, each made once.
class Source {
 public:
  Source(Pixels image, const ModelSpec& spec);
  const Pixels& image() const { return image_; }
  std::uint64_t id() const { return id_; }  // no other source of this process has it
  Size size() const { return {image_.height, image_.width}; }
  const Pixels& rescaled(int short_side_px);
  // The pixels of a view that is resized, GoogLeNet's square or a region; not mirrored.
  Pixels square(const View& view);

 private:
  Pixels image_;
  const ModelSpec& spec_;
  std::uint64_t id_;
  std::map<int, Pixels> rescaled_;
};

// Calls `run(feed, places)` for all views of `plan`, as many together as the backend and the model take.
void for_each_call(const Backend& backend, Source& source, const std::vector<View>& plan,
                   const std::function<void(const Feed&, const std::vector<std::size_t>&)>& run);

}  // namespace verydeep
