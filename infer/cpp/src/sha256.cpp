#include "sha256.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace verydeep {
namespace {

using State = std::array<std::uint32_t, 8>;

// The first 32 bits of the fractional parts of the roots of the first primes: what the standard defines them to be.
template <std::size_t N>
std::array<std::uint32_t, N> fractions(double (*root)(double)) {
  std::array<std::uint32_t, N> found{};
  std::size_t count = 0;
  for (int n = 2; count < N; ++n) {
    bool prime = true;
    for (int d = 2; d * d <= n; ++d) prime = prime && n % d;
    if (!prime) continue;
    const double value = root(n);
    found[count++] = static_cast<std::uint32_t>((value - std::floor(value)) * 4294967296.0);
  }
  return found;
}

std::uint32_t rotated(std::uint32_t x, int n) { return x >> n | x << (32 - n); }

void add_block(State& state, const std::uint8_t* block) {
  static const auto constants = fractions<64>([](double n) { return std::cbrt(n); });
  std::array<std::uint32_t, 64> w;
  for (int i = 0; i < 16; ++i)
    w[i] = static_cast<std::uint32_t>(block[4 * i]) << 24 | static_cast<std::uint32_t>(block[4 * i + 1]) << 16 |
           static_cast<std::uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; ++i) {
    const std::uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + w[i - 7] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t one = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) +
                              constants[i] + w[i];
    const std::uint32_t two = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  const State next{a, b, c, d, e, f, g, h};
  for (int i = 0; i < 8; ++i) state[i] += next[i];
}

}  // namespace

std::string sha256(const void* data, std::size_t size) {
  State state = fractions<8>([](double n) { return std::sqrt(n); });
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  const std::size_t whole = size / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) add_block(state, bytes + at);
  std::array<std::uint8_t, 128> end{};
  const std::size_t rest = size - whole, length = rest < 56 ? 64 : 128;
  if (rest) std::memcpy(end.data(), bytes + whole, rest);
  end[rest] = 0x80;
  for (int i = 0; i < 8; ++i) end[length - 1 - i] = static_cast<std::uint8_t>(static_cast<std::uint64_t>(size) * 8 >> 8 * i);
  for (std::size_t at = 0; at < length; at += 64) add_block(state, &end[at]);
  std::string text;
  for (const std::uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

}  // namespace verydeep
