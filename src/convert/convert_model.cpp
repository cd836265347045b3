#include "convert/convert_model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/shown.h"
#include "tensor/quantise.h"

namespace tutti::convert {
namespace {

using formats::GgufValue;
using tensor::Type;

constexpr size_t kSlabBytes = size_t(16) << 20;  // of written rows held at once
constexpr uint32_t kQuantisationVersion = 2;

void check_output(const Source& source, const std::filesystem::path& out, bool force) {
  std::error_code none;
  if (std::filesystem::is_directory(out, none)) {
    throw Error(ErrorKind::kUsage, out.string() + ": is a folder; name the file to write");
  }
  if (!std::filesystem::exists(out, none)) return;
  // The input's maps would stay readable, but a person who asks for this loses the original.
  if (std::filesystem::equivalent(source.path, out, none)) {
    throw Error(ErrorKind::kUsage, out.string() + ": is the input; name another file to write");
  }
  if (!force) throw Error(ErrorKind::kUsage, out.string() + ": exists; give --force to replace it");
}

void check_requantise(const Source& source, const ConvertReport& plan, bool allowed) {
  if (allowed) return;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const TensorReport& t = plan.tensors[i];
    if (!tensor::info(t.from).quantised || t.from == t.to) continue;
    throw Error(ErrorKind::kUsage,
                source.place + ": tensor " + formats::shown(t.name) + " is " +
                    std::string(tensor::info(t.from).name) + " already and would become " +
                    std::string(tensor::info(t.to).name) +
                    "; quantise from F32, F16 or BF16, or give --allow-requantize and lose twice");
  }
}

// `metadata` with the type of the file; the pairs stand where they stood.
formats::GgufMetadata stated(const Source& source, const ConvertReport& plan,
                             const FileType& type) {
  formats::GgufMetadata metadata = source.metadata;
  const auto set = [&](const char* key, uint32_t value) {
    for (auto& [name, old] : metadata) {
      if (name != key) continue;
      if (const auto* held = std::get_if<uint64_t>(&old.value); held && *held == value) return;
      old = GgufValue::u32(value);
      return;
    }
    metadata.emplace_back(key, GgufValue::u32(value));
  };
  if (type.copy && source.gguf) return metadata;
  uint32_t id = type.id;
  if (type.copy) {
    // Of the type that most bytes have.
    uint64_t most = 0;
    for (const auto& [stored, file_type] :
         {std::pair{Type::kF32, 0u}, {Type::kF16, 1u}, {Type::kBF16, 32u}}) {
      uint64_t bytes = 0;
      for (const TensorReport& t : plan.tensors) bytes += t.to == stored ? t.bytes : 0;
      if (bytes > most) id = file_type;
      most = std::max(most, bytes);
    }
  }
  set("general.file_type", id);
  set("general.quantization_version", kQuantisationVersion);
  return metadata;
}

class Converter {
 public:
  Converter(const Source& source, const Importance& importance, ComputePool& pool, uint64_t total,
            const ConvertProgress& progress)
      : source_(source), importance_(importance), pool_(pool), total_(total), progress_(progress) {}

  void write(size_t index, TensorReport& report, const Sink& sink) {
    const SourceTensor& from = source_.tensors[index];
    const int64_t rows = from.rows(), columns = from.columns();
    const size_t row_bytes = tensor::row_bytes(report.to, columns);
    const int64_t slab =
        std::clamp<int64_t>(int64_t(kSlabBytes / row_bytes), 1, std::min<int64_t>(rows, 1 << 20));
    report.copied = from.one_type() && report.from == report.to;
    out_.resize(size_t(slab) * row_bytes);
    sums_.resize(size_t(slab));
    for (int64_t first = 0; first < rows; first += slab) {
      const int64_t count = std::min(slab, rows - first);
      pool_.run([&](Worker& worker) {
        const auto share = worker.share(int(count));
        RowBuffers buffers(columns);
        for (int64_t r = share.first; r < share.last; ++r) {
          const std::span<std::byte> to = std::span(out_).subspan(size_t(r) * row_bytes, row_bytes);
          sums_[size_t(r)] = report.copied ? copy(from, first + r, to, buffers)
                                           : convert(from, first + r, report.to, to, buffers);
        }
      });
      // In the order of rows: sums do not depend on the number of threads.
      for (int64_t r = 0; r < count; ++r) {
        const RowSums& s = sums_[size_t(r)];
        if (s.problem) refuse(report, first + r, s);
        report.square_error += s.square_error;
        report.squares += s.squares;
        report.max_error = std::max(report.max_error, s.max_error);
      }
      sink(std::span(out_).first(size_t(count) * row_bytes));
      done_ += uint64_t(double(from.stored_bytes()) * double(count) / double(rows));
      if (progress_) progress_(report, std::min(1.0, double(done_) / double(total_)));
    }
  }

 private:
  struct RowBuffers {
    explicit RowBuffers(int64_t columns) : x(size_t(columns)), y(size_t(columns)) {}
    std::vector<float> x, y;
  };
  struct RowSums {
    double square_error = 0, squares = 0, max_error = 0;
    enum Problem { kNone, kNotFinite, kTooLarge } problem = kNone;
  };

  static RowSums copy(const SourceTensor& from, int64_t r, std::span<std::byte> to,
                      RowBuffers& buffers) {
    const SourceTensor::Part row = from.row(r);
    std::ranges::copy(row.bytes, to.begin());
    RowSums sums;
    tensor::dequantise(row.type, row.bytes, buffers.x);
    for (const float v : buffers.x) sums.squares += double(v) * double(v);
    return sums;
  }

  RowSums convert(const SourceTensor& from, int64_t r, Type type, std::span<std::byte> to,
                  RowBuffers& buffers) const {
    const SourceTensor::Part row = from.row(r);
    auto& [x, y] = buffers;
    tensor::dequantise(row.type, row.bytes, x);
    RowSums sums;
    for (const float v : x) sums.squares += double(v) * double(v);
    if (!std::isfinite(sums.squares)) {
      sums.problem = RowSums::kNotFinite;
      return sums;
    }
    std::span<const float> importance;
    if (!importance_.empty() && tensor::info(type).quantised) {
      const int64_t parts = from.facts.dims.size() > 2 ? int64_t(from.facts.dims[2]) : 1;
      importance =
          importance_.of(from.facts.name, from.columns(), parts, r / (from.rows() / parts));
    }
    tensor::quantise(type, x, to, importance);
    tensor::dequantise(type, to, y);
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = double(y[i]) - double(x[i]);
      sums.square_error += error * error;
      sums.max_error = std::max(sums.max_error, std::fabs(error));
    }
    if (!std::isfinite(sums.square_error)) sums.problem = RowSums::kTooLarge;
    return sums;
  }

  [[noreturn]] void refuse(const TensorReport& report, int64_t row, const RowSums& sums) const {
    const std::string place =
        source_.place + ": tensor " + formats::shown(report.name) + ", row " + std::to_string(row);
    if (sums.problem == RowSums::kNotFinite) {
      throw Error(ErrorKind::kBadFile,
                  place + ": holds values that are no finite numbers; the model is damaged");
    }
    throw Error(ErrorKind::kBadFile, place + ": holds values too large for " +
                                         std::string(tensor::info(report.to).name) +
                                         "; convert to BF16 or F32");
  }

  const Source& source_;
  const Importance& importance_;
  ComputePool& pool_;
  const uint64_t total_;
  const ConvertProgress& progress_;
  uint64_t done_ = 0;
  std::vector<std::byte> out_;
  std::vector<RowSums> sums_;
};

}  // namespace

double TensorReport::rms_error() const {
  return elements ? std::sqrt(square_error / double(elements)) : 0;
}

void ConvertReport::add(const TensorReport& tensor) {
  tensors.push_back(tensor);
  elements += tensor.elements;
  bytes_before += tensor.bytes_before;
  bytes += tensor.bytes;
  square_error += tensor.square_error;
  squares += tensor.squares;
}

double ConvertReport::relative_rms() const {
  return squares > 0 ? std::sqrt(square_error / squares) : 0;
}

ConvertReport plan_conversion(const Source& source, const ConvertOptions& options) {
  std::vector<TensorFacts> facts;
  for (const SourceTensor& t : source.tensors) facts.push_back(t.facts);
  const auto choices = choose_types(options.rules, source.facts, facts);
  ConvertReport report;
  for (size_t i = 0; i < choices.size(); ++i) {
    const SourceTensor& from = source.tensors[i];
    TensorReport t;
    t.name = from.facts.name;
    t.dims = from.facts.dims;
    t.from = from.facts.stored;
    t.to = choices[i].type;
    t.wanted = choices[i].wanted;
    t.elements = uint64_t(from.rows()) * uint64_t(from.columns());
    t.bytes_before = from.stored_bytes();
    t.bytes = uint64_t(from.rows()) * tensor::row_bytes(t.to, from.columns());
    report.add(t);
  }
  return report;
}

void check_conversion(const Source& source, const std::filesystem::path& out,
                      const ConvertOptions& options) {
  check_requantise(source, plan_conversion(source, options), options.allow_requantize);
  check_output(source, out, options.force);
}

ConvertReport convert_model(const Source& source, const std::filesystem::path& out,
                            const ConvertOptions& options, const Importance& importance,
                            ComputePool& pool, const TensorDone& done,
                            const ConvertProgress& progress) {
  ConvertReport plan = plan_conversion(source, options);
  check_requantise(source, plan, options.allow_requantize);
  check_output(source, out, options.force);
  std::vector<formats::GgufTensor> tensors(plan.tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = plan.tensors[i].name;
    tensors[i].dims = plan.tensors[i].dims;
    tensors[i].type = plan.tensors[i].to;
  }
  Converter converter(source, importance, pool, std::max<uint64_t>(plan.bytes_before, 1), progress);
  ConvertReport report;
  formats::write_gguf(
      out, stated(source, plan, options.rules.file_type), tensors,
      [&](size_t i, const Sink& sink) {
        TensorReport& t = plan.tensors[i];
        converter.write(i, t, sink);
        report.add(t);
        if (done) done(t);
      },
      source.gguf ? source.gguf->version() : 3);
  return report;
}

}  // namespace tutti::convert
