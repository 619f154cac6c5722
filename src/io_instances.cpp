// SPDX-License-Identifier: MIT
// The instances of the io floor, which its headers declare `extern template` where
// REFORMER_EXTERN_IO_INSTANCES is defined: a source of a program that compiles them apart (target
// reformer::io_instances).
#include "reformer/io/huggingface.hpp"
#include "reformer/io/model_file.hpp"

#ifndef REFORMER_EXTERN_IO_INSTANCES
#error "reformer: src/io_instances.cpp takes -DREFORMER_EXTERN_IO_INSTANCES, like all other sources"
#endif

namespace reformer::inline REFORMER_ABI {

template class detail::JsonTree<Json>;
template Json parse_json_object(std::string_view, std::string_view, std::size_t);

template void SafetensorsFile::read(const StoredTensor&, const MatrixView<float>&) const;
template void SafetensorsFile::read_transposed(const StoredTensor&, const MatrixView<float>&) const;
template void write_safetensors(AtomicFile&, std::vector<OutgoingTensor<float>>,
                                const std::map<std::string, std::string>&);
template void write_safetensors(const std::filesystem::path&, std::vector<OutgoingTensor<float>>,
                                const std::map<std::string, std::string>&);

template Model<float> ModelFile::model() const;
template void ModelFile::read_parameters(Model<float>&) const;
template void save_model(const std::filesystem::path&, const Model<float>&,
                         const std::map<std::string, std::string>&);
template Model<float> load_model(const std::filesystem::path&);
template void load_parameters(const std::filesystem::path&, Model<float>&);
template void ModelFile::read_optimizer(Model<float>&, Adam<float>&) const;
template void save_model(const std::filesystem::path&, const Model<float>&, const Adam<float>&,
                         std::int64_t, const std::map<std::string, std::string>&);
template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&, Adam<float>&);
template void ModelFile::read_optimizer(Model<float>&, Adafactor<float>&) const;
template void save_model(const std::filesystem::path&, const Model<float>&, const Adafactor<float>&,
                         std::int64_t, const std::map<std::string, std::string>&);
template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&,
                                     Adafactor<float>&);
template void ModelFile::read_optimizer(Model<float>&, Muon<float>&) const;
template void save_model(const std::filesystem::path&, const Model<float>&, const Muon<float>&,
                         std::int64_t, const std::map<std::string, std::string>&);
template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&, Muon<float>&);

template std::vector<std::string> load_huggingface_weights(
    const HuggingFaceWeights&, Model<float>&, const std::function<bool(std::string_view)>&);
template void save_huggingface(const std::filesystem::path&, const Model<float>&,
                               const HuggingFaceConfig&);
template class HuggingFaceModel<float>;

}  // namespace reformer::inline REFORMER_ABI
