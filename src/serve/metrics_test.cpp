#include "serve/metrics.h"

#include <gtest/gtest.h>

namespace tutti::serve {
namespace {

TEST(Histogram, CountsUpToItsBounds) {
  Histogram h({1, 2.5, 10});
  for (const double x : {0.5, 1.0, 1.5, 2.5, 3.0, 100.0}) h.observe(x);
  EXPECT_EQ(h.counts(), (std::vector<uint64_t>{2, 2, 1, 1}));  // a bound belongs to its bucket
  EXPECT_EQ(h.count(), 6u);
  EXPECT_DOUBLE_EQ(h.sum(), 108.5);
}

TEST(CountBounds, ReachWhatIsAsked) {
  EXPECT_EQ(count_bounds(20), (std::vector<double>{1, 2, 5, 10, 20}));
  EXPECT_EQ(count_bounds(21).back(), 50);
}

TEST(MetricsPage, IsTheTextFormat) {
  MetricsPage page;
  page.counter({"a_total", "b_total"}, "Two\nlines \\ here.", {{"model", "x\"y\\z\n"}}, 3);
  page.counter({"a_total"}, "ignored", {{"model", "other"}}, 0.1);
  Histogram h({0.5});
  h.observe(0.25);
  h.observe(4);
  page.histogram({"t_seconds"}, "Time.", {}, h);
  EXPECT_EQ(page.text(),
            "# HELP a_total Two\\nlines \\\\ here.\n# TYPE a_total counter\n"
            "a_total{model=\"x\\\"y\\\\z\\n\"} 3\na_total{model=\"other\"} 0.1\n"
            "# HELP b_total Two\\nlines \\\\ here.\n# TYPE b_total "
            "counter\nb_total{model=\"x\\\"y\\\\z\\n\"} 3\n"
            "# HELP t_seconds Time.\n# TYPE t_seconds histogram\n"
            "t_seconds_bucket{le=\"0.5\"} 1\nt_seconds_bucket{le=\"+Inf\"} 2\nt_seconds_sum "
            "4.25\nt_seconds_count 2\n");
}

}  // namespace
}  // namespace tutti::serve
