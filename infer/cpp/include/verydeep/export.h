/* What the shared library shows; everything else stays inside. */
#ifndef VERYDEEP_EXPORT_H
#define VERYDEEP_EXPORT_H

#if defined(VERYDEEP_BUILDING) && defined(__GNUC__)
#define VERYDEEP_API __attribute__((visibility("default")))
#else
#define VERYDEEP_API
#endif

#endif
