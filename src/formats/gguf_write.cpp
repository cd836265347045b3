
#include "base/error.h"
#include "formats/gguf_header.h"
#include "formats/gguf_scalar.h"
#include "formats/shown.h"

namespace tutti::formats {
namespace {

class HeaderWriter {
 public:
  std::vector<std::byte> bytes;

  template <typename T>
  void number(T value) {
    append(std::as_bytes(std::span(&value, 1)));
  }
  void text(const std::string& s) {
    number(uint64_t(s.size()));
    append(std::as_bytes(std::span(s)));
  }

  void value(const GgufValue& v) {
    number(uint32_t(v.type));
    if (v.type == GgufType::kString) {
      if (!std::holds_alternative<std::string>(v.value)) mismatch();
      text(std::get<std::string>(v.value));
    } else if (v.type == GgufType::kArray) {
      const auto* held = std::get_if<std::shared_ptr<GgufArray>>(&v.value);
      if (!held || !*held) mismatch();
      array(**held);
    } else {
      store_scalar(v, bytes);
    }
  }

 private:
  [[noreturn]] static void mismatch() {
    throw Error(ErrorKind::kUsage,
                "GGUF value: does not hold what its type says; set type and value together");
  }

  void array(const GgufArray& a) {
    const size_t width = gguf_type_bytes(a.element);
    if (width && a.packed.size() % width) mismatch();
    number(uint32_t(a.element));
    number(uint64_t(a.size()));
    for (const std::string& s : a.strings) text(s);
    for (const GgufArray& inner : a.arrays) array(inner);
    append(a.packed);
  }

  void append(std::span<const std::byte> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
};

uint64_t alignment_of(const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key != "general.alignment") continue;
    const auto* stated = std::get_if<uint64_t>(&value.value);
    return stated && *stated ? *stated : kGgufDefaultAlignment;  // a bad one is refused below
  }
  return kGgufDefaultAlignment;
}

uint64_t padding(uint64_t at, uint64_t alignment) {
  return (alignment - at % alignment) % alignment;
}

// Everything before the tensors' data, padding included, and checked by the reader's own rules.
// `sizes` are the bytes of each tensor's data.
std::vector<std::byte> make_header(const std::string& name, const GgufMetadata& metadata,
                                   const std::vector<GgufTensor>& tensors,
                                   const std::vector<uint64_t>& sizes, uint32_t version) {
  const uint64_t alignment = alignment_of(metadata);
  HeaderWriter header;
  header.number(kGgufMagic);
  header.number(version);
  header.number(uint64_t(tensors.size()));
  header.number(uint64_t(metadata.size()));
  for (const auto& [key, value] : metadata) {
    header.text(key);
    header.value(value);
  }
  uint64_t offset = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = tensors[i];
    header.text(tensor.name);
    header.number(uint32_t(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) header.number(dim);
    header.number(uint32_t(tensor.type));
    header.number(offset);
    offset += sizes[i];
    offset += padding(offset, alignment);
  }
  // Without tensors there is no data section and files end here.
  if (!tensors.empty()) {
    header.bytes.resize(header.bytes.size() + padding(header.bytes.size(), alignment));
  }
  try {
    const auto checked = parse_gguf_header(header.bytes, header.bytes.size() + offset, name);
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (checked.tensors[i].bytes() != sizes[i]) {
        throw Error(ErrorKind::kUsage, name + ": tensor " + shown(tensors[i].name) + ": has " +
                                           std::to_string(sizes[i]) +
                                           " bytes of data where its shape " + "needs " +
                                           std::to_string(checked.tensors[i].bytes()));
      }
    }
  } catch (const Error& error) {
    throw Error(ErrorKind::kUsage, std::string("cannot write ") + error.what());
  }
  return std::move(header.bytes);
}

std::vector<uint64_t> sizes_of(const std::vector<GgufTensor>& tensors) {
  std::vector<uint64_t> sizes;
  for (const GgufTensor& tensor : tensors) sizes.push_back(tensor.data.size());
  return sizes;
}

void write_parts(const Sink& sink, std::span<const std::byte> header, uint64_t alignment,
                 const std::vector<uint64_t>& sizes, const GgufTensorData& data) {
  const std::vector<std::byte> zeros(alignment);
  sink(header);
  for (size_t i = 0; i < sizes.size(); ++i) {
    data(i, sink);
    sink(std::span(zeros).first(padding(sizes[i], alignment)));
  }
}

}  // namespace

void write_gguf(const Sink& sink, const std::string& name, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, uint32_t version) {
  const auto sizes = sizes_of(tensors);
  const auto header = make_header(name, metadata, tensors, sizes, version);
  write_parts(sink, header, alignment_of(metadata), sizes,
              [&](size_t i, const Sink& to) { to(tensors[i].data); });
}

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, uint32_t version) {
  const auto sizes = sizes_of(tensors);
  const auto header = make_header(path.string(), metadata, tensors, sizes, version);
  write_file_atomically(path, [&](const Sink& sink) {
    write_parts(sink, header, alignment_of(metadata), sizes,
                [&](size_t i, const Sink& to) { to(tensors[i].data); });
  });
}

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors, const GgufTensorData& data,
                uint32_t version) {
  std::vector<uint64_t> sizes;
  for (const GgufTensor& tensor : tensors) sizes.push_back(tensor.bytes());
  const auto header = make_header(path.string(), metadata, tensors, sizes, version);
  write_file_atomically(path, [&](const Sink& sink) {
    write_parts(sink, header, alignment_of(metadata), sizes, [&](size_t i, const Sink& to) {
      uint64_t written = 0;
      data(i, [&](std::span<const std::byte> bytes) {
        written += bytes.size();
        to(bytes);
      });
      if (written == sizes[i]) return;
      throw Error(ErrorKind::kUsage, "cannot write " + path.string() + ": tensor " +
                                         shown(tensors[i].name) + ": was given " +
                                         std::to_string(written) + " of its " +
                                         std::to_string(sizes[i]) + " bytes");
    });
  });
}

}  // namespace tutti::formats
