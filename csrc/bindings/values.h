// The tensors and settings of a call, read off the descriptions of `fused_resnet.operation.branches`.
#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/conv2d.h>
#include <torch/csrc/autograd/python_variable.h>

#include <bindings/key.h>
#include <tail.h>

#include <optional>

namespace fused_resnet::bindings {

// The tensors of one branch. Gradients flow to the first five.
constexpr int tensors_a_branch = 8, operands_a_branch = 5;
enum BranchTensor { x, weight, bias, gamma, beta, running_mean, running_var, num_batches_tracked };

// The classes of `fused_resnet.operation.branches`.
struct Descriptions {
  PyObject *direct, *projection, *zero_pad, *norm;

  static Descriptions& of_module() {
    static Descriptions descriptions{};
    return descriptions;
  }
};

// Each `read` is false where a value is not of the kind that calls are remembered with.

// A tensor that is neither of a subclass nor anything else that may want to know of an operator.
inline bool read(PyObject* object, at::Tensor& tensor) {
  if (object == Py_None) return true;
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  if (type != THPVariableClass && type != ParameterClass) return false;
  tensor = THPVariable_Unpack(object);
  return is_plain(tensor) && !tensor._fw_grad(0).defined();
}

inline bool read(PyObject* object, std::int64_t& number) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  number = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

inline bool read(PyObject* object, std::optional<double>& number) {
  if (object != Py_None && !PyFloat_CheckExact(object)) return false;
  if (object != Py_None) number = PyFloat_AS_DOUBLE(object);
  return true;
}

inline bool read(PyObject* object, bool& flag) {
  flag = object == Py_True;
  return PyBool_Check(object);
}

// A borrowed object lives as long as the description that has it as an attribute.
inline bool read(PyObject* object, PyObject*& borrowed) {
  borrowed = object;
  return true;
}

// Reads attributes of a description, until one is not as it should be.
class Reader {
 public:
  explicit Reader(PyObject* description) : description_(description) {}

  template <class Value>
  Reader& operator()(PyObject* name, Value& value) {
    if (!good_) return *this;
    PyObject* const attribute = PyObject_GetAttr(description_, name);
    good_ = attribute != nullptr && read(attribute, value);
    if (attribute == nullptr) PyErr_Clear();
    Py_XDECREF(attribute);
    return *this;
  }

  bool good() const { return good_; }

 private:
  PyObject* description_;
  bool good_ = true;
};

// A name that attributes are looked up by, made once.
#define ATTRIBUTE(name)                                                  \
  [] {                                                                   \
    static PyObject* const attribute = PyUnicode_InternFromString(name); \
    return attribute;                                                    \
  }()

class BranchValues {
 public:
  bool read_from(PyObject* branch) {
    const Descriptions& known = Descriptions::of_module();
    PyObject* const kind = reinterpret_cast<PyObject*>(Py_TYPE(branch));
    PyObject *norm = Py_None, *placement = nullptr;
    Reader of(branch);
    of(ATTRIBUTE("x"), tensors[x]);
    if (kind == known.projection) {
      source_ = Source::projection;
      of(ATTRIBUTE("weight"), tensors[weight])(ATTRIBUTE("bias"), tensors[bias])(ATTRIBUTE("stride"), stride_);
      of(ATTRIBUTE("norm"), norm);
    } else if (kind == known.direct) {
      source_ = Source::direct;
      of(ATTRIBUTE("norm"), norm);
    } else if (kind == known.zero_pad) {
      source_ = Source::zero_pad;
      of(ATTRIBUTE("out_channels"), out_channels_)(ATTRIBUTE("stride"), stride_)(ATTRIBUTE("placement"), placement);
    } else {
      return false;
    }
    if (!of.good() || !tensors[x].defined() || (source_ == Source::projection && !tensors[weight].defined()))
      return false;
    return read_placement(placement) && (norm == Py_None || read_norm(norm));
  }

  // As `fused_resnet.operation.autocast` does it: a projection's operands are cast as autocast casts a convolution's.
  void cast_by_autocast() {
    if (source_ != Source::projection) return;
    const c10::DeviceType device = tensors[x].device().type();
    if (!at::autocast::is_autocast_enabled(device)) return;
    const c10::ScalarType type = at::autocast::get_autocast_dtype(device);
    for (const BranchTensor operand : {x, weight, bias}) {
      at::Tensor& t = tensors[operand];
      if (t.defined() && t.is_floating_point() && t.scalar_type() != c10::kDouble && t.scalar_type() != type)
        t = t.to(type);
    }
  }

  // The projection by PyTorch's own convolution: what it gives takes the place of its source.
  void convolve() {
    tensors[x] = at::conv2d(tensors[x], tensors[weight], tensors[bias], stride_);
    tensors[weight] = tensors[bias] = at::Tensor();
    source_ = Source::direct;
    stride_ = 1;
  }

  bool requires_grad() const {
    for (int i = 0; i < operands_a_branch; ++i)
      if (tensors[i].defined() && tensors[i].requires_grad()) return true;
    return false;
  }

  void add_to(Key& key) const {
    for (const at::Tensor& t : tensors) key.add(t);
    key.add(static_cast<std::int64_t>(source_) | std::int64_t{both_sides_} << 8 | std::int64_t{has_norm_} << 16 |
            std::int64_t{training_} << 17 | std::int64_t{momentum_.has_value()} << 18);
    key.add(stride_);
    key.add(out_channels_);
    key.add(momentum_.value_or(0.0));
    key.add(eps_.value_or(0.0));
  }

  at::Tensor tensors[tensors_a_branch];

 private:
  bool read_placement(PyObject* placement) {
    if (placement == nullptr) return true;
    both_sides_ = PyUnicode_Check(placement) && PyUnicode_CompareWithASCIIString(placement, "both") == 0;
    return both_sides_ || (PyUnicode_Check(placement) && PyUnicode_CompareWithASCIIString(placement, "end") == 0);
  }

  bool read_norm(PyObject* norm) {
    if (reinterpret_cast<PyObject*>(Py_TYPE(norm)) != Descriptions::of_module().norm) return false;
    PyObject* group = Py_None;
    Reader of(norm);
    of(ATTRIBUTE("weight"), tensors[gamma])(ATTRIBUTE("bias"), tensors[beta]);
    of(ATTRIBUTE("running_mean"), tensors[running_mean])(ATTRIBUTE("running_var"), tensors[running_var]);
    of(ATTRIBUTE("momentum"), momentum_)(ATTRIBUTE("eps"), eps_)(ATTRIBUTE("training"), training_);
    of(ATTRIBUTE("process_group"), group);
    if (training_) of(ATTRIBUTE("num_batches_tracked"), tensors[num_batches_tracked]);
    has_norm_ = true;
    return of.good() && eps_ && group == Py_None;
  }

  Source source_ = Source::none;
  bool both_sides_ = false, has_norm_ = false, training_ = false;
  std::int64_t stride_ = 1, out_channels_ = 0;
  std::optional<double> momentum_, eps_;
};

#undef ATTRIBUTE

// The values of a whole tail; those of an absent shortcut are empty.
class TailValues {
 public:
  bool read_from(PyObject* main, PyObject* shortcut, bool relu) {
    relu_ = relu;
    return branches[0].read_from(main) && (shortcut == Py_None || branches[1].read_from(shortcut));
  }

  // Whether gradients will be asked for.
  bool keeps() const {
    return at::GradMode::is_enabled() && (branches[0].requires_grad() || branches[1].requires_grad());
  }

  Key key(std::int64_t choices, bool tf32) const {
    Key key;
    key.add(choices);
    key.add(std::int64_t{relu_} | std::int64_t{keeps()} << 1 | std::int64_t{tf32} << 2);
    for (const BranchValues& branch : branches) branch.add_to(key);
    return key;
  }

  BranchValues branches[2];

 private:
  bool relu_ = false;
};

}  // namespace fused_resnet::bindings
