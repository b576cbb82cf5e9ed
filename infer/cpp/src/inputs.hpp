// A call's inputs as plain tensors, for every interface of a model and every runtime.
#pragma once

#include <cstdint>
#include <vector>

#include "backend.hpp"

namespace verydeep {

enum class Type { u8, i32, f32 };

struct Input {
  const char* name;
  Type type;
  std::vector<std::int64_t> shape;
  const void* data;

  std::size_t elements() const;
  std::size_t bytes() const { return elements() * (type == Type::u8 ? 1 : 4); }
};

// The inputs of one feed. They point into it, and into pixels and planes made for the interfaces that want them.
class Inputs {
 public:
  // regions: the engine's views are regions, which then are what they are cut from, not resized.
  Inputs(const Feed& feed, const ModelSpec& spec, bool regions = false);
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;

  const std::vector<Input>& all() const { return inputs_; }
  // i32 [views, 6], for the interface whose graph has none (`nchw`); otherwise empty.
  std::vector<std::int32_t> pixel_sums() const;

 private:
  void add_regions();
  void ready_pixels();
  void normalise();

  const Feed& feed_;
  const ModelSpec& spec_;
  std::vector<std::uint8_t> pixels_;  // [views, height, width, 3]
  std::vector<float> planes_;         // [views, 3, height, width]
  std::vector<std::int32_t> whole_;   // taps that leave a region as it is: as many as its views have rows or columns
  std::vector<std::int32_t> lines_;   // [views, height], the line of each row
  std::vector<Input> inputs_;
};

}  // namespace verydeep
