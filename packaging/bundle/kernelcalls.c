/* _kernelcalls: what `os` and `signal` have on every Linux of today, and the bundle's interpreter lacks.
 *
 * python-build-standalone is compiled against headers of 2017, so that it runs with a C library of that year; CPython leaves
 * out what these do not know. The kernel has it all the same, by system calls whose numbers are one for all machines
 * here (asm-generic, from 424 on) or stand below. Each function takes and returns what the documentation of `os` and
 * `signal` says. Limited API of Python 3.11: it is compiled with the headers of the Python that builds.
 */
#define _GNU_SOURCE
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIDFD_SEND_SIGNAL 424
#define PIDFD_OPEN 434
#define MOST_BUFFERS 1024

static PyObject *failed(void) { return PyErr_SetFromErrno(PyExc_OSError); }

static PyObject *k_pidfd_open(PyObject *self, PyObject *args, PyObject *named) {
    static char *names[] = {"pid", "flags", NULL};
    int pid;
    unsigned int flags = 0;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, named, "i|I:pidfd_open", names, &pid, &flags))
        return NULL;
    long fd = syscall(PIDFD_OPEN, pid, flags);
    return fd < 0 ? failed() : PyLong_FromLong(fd);
}

static PyObject *k_pidfd_send_signal(PyObject *self, PyObject *args) {
    int pidfd, number, flags = 0;
    PyObject *info = Py_None;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii|Oi:pidfd_send_signal", &pidfd, &number, &info, &flags))
        return NULL;
    if (info != Py_None) {
        PyErr_SetString(PyExc_TypeError, "siginfo must be None");
        return NULL;
    }
    if (syscall(PIDFD_SEND_SIGNAL, pidfd, number, NULL, flags) < 0)
        return failed();
    Py_RETURN_NONE;
}

static PyObject *k_memfd_create(PyObject *self, PyObject *args, PyObject *named) {
    static char *names[] = {"name", "flags", NULL};
    PyObject *name;
    unsigned int flags = 1; /* MFD_CLOEXEC */
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O&|I:memfd_create", names, PyUnicode_FSConverter, &name, &flags))
        return NULL;
    long fd = syscall(SYS_memfd_create, PyBytes_AsString(name), flags);
    Py_DecRef(name);
    return fd < 0 ? failed() : PyLong_FromLong(fd);
}

static PyObject *k_copy_file_range(PyObject *self, PyObject *args, PyObject *named) {
    static char *names[] = {"src", "dst", "count", "offset_src", "offset_dst", NULL};
    int source, target;
    Py_ssize_t count;
    PyObject *from = Py_None, *to = Py_None;
    int64_t begin = 0, place = 0;
    (void)self;
    if (!PyArg_ParseTupleAndKeywords(args, named, "iin|OO:copy_file_range", names, &source, &target, &count, &from, &to))
        return NULL;
    if (count < 0) {
        PyErr_SetString(PyExc_ValueError, "negative value for 'count' not allowed");
        return NULL;
    }
    if (from != Py_None && (begin = PyLong_AsLongLong(from)) == -1 && PyErr_Occurred())
        return NULL;
    if (to != Py_None && (place = PyLong_AsLongLong(to)) == -1 && PyErr_Occurred())
        return NULL;
    long done;
    Py_BEGIN_ALLOW_THREADS
    done = syscall(SYS_copy_file_range, source, from == Py_None ? NULL : &begin, target, to == Py_None ? NULL : &place,
                   (size_t)count, 0);
    Py_END_ALLOW_THREADS
    return done < 0 ? failed() : PyLong_FromLong(done);
}

/* preadv2(2) and pwritev2(2); the kernel takes the offset in two halves, of which 64-bit machines use the first. */
static PyObject *vectored(long number, PyObject *args, PyObject *named, const char *format, int writable) {
    static char *names[] = {"fd", "buffers", "offset", "flags", NULL};
    int fd, flags = 0;
    long long offset;
    PyObject *given;
    if (!PyArg_ParseTupleAndKeywords(args, named, format, names, &fd, &given, &offset, &flags))
        return NULL;
    Py_ssize_t count = PySequence_Size(given);
    if (count < 0)
        return NULL;
    if (count > MOST_BUFFERS) {
        errno = EINVAL;
        return failed();
    }
    Py_buffer *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    struct iovec *parts = PyMem_Calloc((size_t)count + 1, sizeof *parts);
    Py_ssize_t held = 0;
    long done = -1;
    int error = 0;
    if (views != NULL && parts != NULL) {
        for (; held < count; held++) {
            PyObject *one = PySequence_GetItem(given, held);
            int wrong = one == NULL || PyObject_GetBuffer(one, &views[held], writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0;
            Py_DecRef(one);
            if (wrong)
                break;
            parts[held].iov_base = views[held].buf;
            parts[held].iov_len = (size_t)views[held].len;
        }
        if (held == count) {
            Py_BEGIN_ALLOW_THREADS
            done = syscall(number, fd, parts, (unsigned long)count, (long)offset, 0L, flags);
            error = errno;
            Py_END_ALLOW_THREADS
        }
    } else {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < held; i++)
        PyBuffer_Release(&views[i]);
    PyMem_Free(views);
    PyMem_Free(parts);
    if (PyErr_Occurred())
        return NULL;
    errno = error;
    return done < 0 ? failed() : PyLong_FromLong(done);
}

static PyObject *k_preadv(PyObject *self, PyObject *args, PyObject *named) {
    (void)self;
    return vectored(SYS_preadv2, args, named, "iOL|i:preadv", 1);
}

static PyObject *k_pwritev(PyObject *self, PyObject *args, PyObject *named) {
    (void)self;
    return vectored(SYS_pwritev2, args, named, "iOL|i:pwritev", 0);
}

#define NAMED(f) {#f, (PyCFunction)(void (*)(void))k_##f, METH_VARARGS | METH_KEYWORDS, NULL}
static PyMethodDef functions[] = {
    NAMED(pidfd_open), {"pidfd_send_signal", k_pidfd_send_signal, METH_VARARGS, NULL},
    NAMED(memfd_create), NAMED(copy_file_range), NAMED(preadv), NAMED(pwritev), {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernelcalls", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernelcalls(void) { return PyModule_Create(&module); }
