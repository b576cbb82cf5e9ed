/* The likeliest class of a PPM image: classify model.onnx image.ppm */
#include <stdio.h>
#include <stdlib.h>
#include <verydeep/verydeep.h>

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: classify model.onnx image.ppm\n"), 2;
  FILE* file = fopen(argv[2], "rb");
  int width = 0, height = 0;
  if (!file || fscanf(file, "P6 %d %d 255", &width, &height) != 2 || fgetc(file) == EOF || width < 1 || height < 1 ||
      width > 10000 || height > 10000)
    return fprintf(stderr, "%s: not a PPM image of 8 bits\n", argv[2]), 1;
  const size_t size = (size_t)3 * (size_t)width * (size_t)height;
  uint8_t* pixels = malloc(size);
  if (!pixels || fread(pixels, 1, size, file) != size) return fprintf(stderr, "%s: it ends early\n", argv[2]), 1;
  fclose(file);
  vd_classifier* classifier = NULL;
  vd_prediction best;
  size_t count = 1;
  if (vd_open(argv[1], NULL, &classifier) != VD_OK ||
      vd_classify(classifier, pixels, height, width, 3 * width, VD_RGB, &best, &count) != VD_OK)
    return fprintf(stderr, "%s\n", vd_last_error()), 1;
  printf("%s %.6f\n", best.name, best.probability);
  vd_close(classifier);
  free(pixels);
  return 0;
}
