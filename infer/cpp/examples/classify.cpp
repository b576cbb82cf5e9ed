// The likeliest class of a PPM image: classify model.onnx image.ppm
#include <cstdio>
#include <fstream>
#include <verydeep/verydeep.hpp>

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: classify model.onnx image.ppm\n"), 2;
  std::ifstream file(argv[2], std::ios::binary);
  std::string magic;
  int width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();
  if (!file || magic != "P6" || largest != 255 || width < 1 || height < 1 || width > 10000 || height > 10000)
    return std::fprintf(stderr, "%s: not a PPM image of 8 bits\n", argv[2]), 1;
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(3) * width * height);
  file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  try {
    verydeep::Classifier classifier(argv[1]);
    const auto best = classifier.classify({pixels.data(), height, width, 3 * width}, 1);
    std::printf("%s %.6f\n", best[0].name.c_str(), best[0].probability);
  } catch (const verydeep::Error& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
