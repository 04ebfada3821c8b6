/* What PHP's headers offer as macros and inline functions only. No logic lives here. */

#include "php.h"
#include "SAPI.h"
#include "zend_attributes.h"
#include "zend_closures.h"
#include "zend_exceptions.h"
#include "zend_generators.h"
#include "zend_observer.h"

#include <stddef.h>

/* The next element of an array at or after `at`; where to go on, or UINT32_MAX when there is none. */
uint32_t nbg_next(HashTable *table, uint32_t at, zend_ulong *number, zend_string **key, zval **value)
{
	for (; at < table->nNumUsed; at++) {
#if PHP_VERSION_ID >= 80200
		if (HT_FLAGS(table) & HASH_FLAG_PACKED) {
			*value = &table->arPacked[at];
			*number = at;
			*key = NULL;
		} else
#endif
		{
			*value = &table->arData[at].val;
			*number = table->arData[at].h;
			*key = table->arData[at].key;
		}
		if (Z_TYPE_P(*value) == IS_INDIRECT) {
			*value = Z_INDIRECT_P(*value);
		}
		if (Z_TYPE_P(*value) != IS_UNDEF) {
			return at + 1;
		}
	}
	return UINT32_MAX;
}

bool nbg_is_sensitive(zend_function *function, uint32_t argument)
{
#if PHP_VERSION_ID >= 80200
	return function->common.attributes
		&& zend_get_parameter_attribute_str(function->common.attributes, "sensitiveparameter",
			sizeof("sensitiveparameter") - 1, argument) != NULL;
#else
	return false;
#endif
}

/* Where the interpreter looks whether it should call zend_interrupt_function. */
void *nbg_interrupt_flag(void)
{
	return &EG(vm_interrupt);
}

#ifdef ZTS
/* This thread's interpreter, or NULL where there is none. */
void *nbg_thread(void)
{
	return tsrm_get_ls_cache();
}
#endif

uint32_t nbg_version(void)
{
	return PHP_VERSION_ID;
}

uint32_t nbg_line(zend_execute_data *frame)
{
	return frame->opline ? frame->opline->lineno : 0;
}

/* 1 include, 2 include_once, 3 require, 4 require_once, 5 eval, 0: none of them. */
int nbg_include_kind(zend_execute_data *caller)
{
	if (!caller->func || !ZEND_USER_CODE(caller->func->type) || !caller->opline
			|| caller->opline->opcode != ZEND_INCLUDE_OR_EVAL) {
		return 0;
	}
	switch (caller->opline->extended_value) {
		case ZEND_INCLUDE: return 1;
		case ZEND_INCLUDE_ONCE: return 2;
		case ZEND_REQUIRE: return 3;
		case ZEND_REQUIRE_ONCE: return 4;
		case ZEND_EVAL: return 5;
	}
	return 0;
}

zval *nbg_argument(zend_execute_data *frame, uint32_t n)
{
	zend_function *function = frame->func;
	if (ZEND_USER_CODE(function->type) && n >= function->op_array.num_args) {
		return ZEND_CALL_VAR_NUM(frame, function->op_array.last_var + function->op_array.T
			+ (n - function->op_array.num_args));
	}
	return ZEND_CALL_VAR_NUM(frame, n);
}

uint32_t nbg_arguments(zend_execute_data *frame)
{
	return ZEND_CALL_NUM_ARGS(frame);
}

/* The name of a parameter, not ended by a NUL. */
const char *nbg_parameter(zend_function *function, uint32_t n, size_t *length)
{
	uint32_t last = function->common.num_args;
	if (n >= last) {
		if (!(function->common.fn_flags & ZEND_ACC_VARIADIC)) {
			return NULL;
		}
		n = last;
	}
	if (!function->common.arg_info) {
		return NULL;
	}
	if (ZEND_USER_CODE(function->type)) {
		zend_string *name = function->op_array.arg_info[n].name;
		*length = name ? ZSTR_LEN(name) : 0;
		return name ? ZSTR_VAL(name) : NULL;
	}
	const char *name = function->internal_function.arg_info[n].name;
	*length = name ? strlen(name) : 0;
	return name;
}

/* 1: an exception, 2: exit() or die(), 0: nothing is being thrown. */
int nbg_thrown(zend_object **exception)
{
	*exception = EG(exception);
	if (!EG(exception)) {
		return 0;
	}
	return zend_is_unwind_exit(EG(exception))
#if PHP_VERSION_ID >= 80100
		|| zend_is_graceful_exit(EG(exception))
#endif
		? 2 : 1;
}

/* Whether a generator only leaves for now: what is handed over is then its value, not its result. */
bool nbg_yields(zend_execute_data *frame, zval *returned)
{
	zend_generator *generator = (zend_generator *) frame->return_value;
	return generator && returned == &generator->value;
}

/* The message of a Throwable, read from its slot: no user code runs. */
zval *nbg_message(zend_object *exception)
{
	zend_class_entry *class = exception->ce;
	zend_property_info *property;
	if (!class) {
		return NULL;
	}
	property = zend_hash_str_find_ptr(&class->properties_info, "message", sizeof("message") - 1);
	if (!property || (property->flags & ZEND_ACC_STATIC)) {
		return NULL;
	}
	return OBJ_PROP(exception, property->offset);
}

bool nbg_is_enum(zend_object *object)
{
	return object->ce && (object->ce->ce_flags & ZEND_ACC_ENUM);
}

zval *nbg_enum_case(zend_object *object)
{
	return &object->properties_table[0];
}

/* Property `n` of the declared ones. */
zval *nbg_property(zend_object *object, uint32_t n, zend_string **name)
{
	zend_class_entry *class = object->ce;
	if (n >= (uint32_t) class->default_properties_count) {
		return NULL;
	}
	*name = class->properties_info_table && class->properties_info_table[n]
		? class->properties_info_table[n]->name : NULL;
	return &object->properties_table[n];
}

zval *nbg_global(const char *name, size_t length)
{
	zval *value = zend_hash_str_find(&EG(symbol_table), name, length);
	if (value && Z_TYPE_P(value) == IS_INDIRECT) {
		value = Z_INDIRECT_P(value);
	}
	return value && Z_TYPE_P(value) != IS_UNDEF ? value : NULL;
}

const char *nbg_script(void)
{
	return SG(request_info).path_translated;
}

const char *nbg_uri(void)
{
	return SG(request_info).request_uri;
}

/* The function of a closure object, or NULL. */
zend_function *nbg_closure(uint32_t handle)
{
	zend_object *object = EG(objects_store).object_buckets[handle];
	if (!IS_OBJ_VALID(object) || object->ce != zend_ce_closure) {
		return NULL;
	}
	return (zend_function *) zend_get_closure_method_def(object);
}

uint32_t nbg_objects(void)
{
	return EG(objects_store).top;
}

/* How many observers are registered, this one among them; 0 when that cannot be told. A handler
 * that is added to a made-up function stands as many places behind the first slot. */
#if PHP_VERSION_ID >= 80200 && PHP_VERSION_ID < 80300
static void nbg_probe(zend_execute_data *frame, zval *returned)
{
	(void) frame;
	(void) returned;
}

int nbg_observers(void)
{
	void *cache[128] = {0};
	zend_function function;
	int first = zend_observer_fcall_op_array_extension;
	if (first < 0 || first > 32) {
		return 0;
	}
	memset(&function, 0, sizeof(function));
	function.type = ZEND_USER_FUNCTION;
	ZEND_MAP_PTR_INIT(function.op_array.run_time_cache, (void **) cache);
	zend_observer_add_end_handler(&function, nbg_probe);
	for (int count = 0; count < 64; count++) {
		if (cache[first + count] == (void *) nbg_probe) {
			return count;
		}
	}
	return 0;
}
#endif
