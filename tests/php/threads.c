/* For tests of a thread-safe PHP: threads that run requests of their own, as the workers of a
 * threaded server do.
 *
 *   threads_start(string $code, int $requests = 1): int   a thread that serves so many requests
 *   threads_join(int $thread): void                       waits for its end
 *
 * The code in the environment's THREADS_FIRST is thread 0, whose request begins before that of the
 * main thread, if this extension is loaded before others.
 */

#include "php.h"
#include "SAPI.h"
#include "php_main.h"

#include <pthread.h>
#include <semaphore.h>

typedef struct {
	pthread_t id;
	char *code;
	zend_long requests;
	void *server;
	bool running;
	sem_t begun;
} job;

static job jobs[64];

static void *serve(void *argument)
{
	job *mine = argument;
	ts_resource(0);
	for (zend_long n = 0; n < mine->requests; n++) {
		SG(server_context) = mine->server;
		PG(expose_php) = 0;
		PG(auto_globals_jit) = 0;
		if (php_request_startup() != SUCCESS) {
			break;
		}
		sem_post(&mine->begun);
		SG(headers_sent) = 1;
		SG(request_info).no_headers = 1;
		zend_first_try {
			zend_eval_string(mine->code, NULL, "thread");
		} zend_end_try();
		php_request_shutdown(NULL);
	}
	ts_free_thread();
	sem_post(&mine->begun);
	return NULL;
}

static int start(const char *code, zend_long requests)
{
	int n = 0;
	while (n < 64 && jobs[n].running) {
		n++;
	}
	if (n == 64) {
		return -1;
	}
	jobs[n].code = strdup(code);
	jobs[n].requests = requests;
	jobs[n].server = SG(server_context);
	sem_init(&jobs[n].begun, 0, 0);
	jobs[n].running = pthread_create(&jobs[n].id, NULL, serve, &jobs[n]) == 0;
	return jobs[n].running ? n : -1;
}

static PHP_RINIT_FUNCTION(threads)
{
	static bool done;
	const char *code = getenv("THREADS_FIRST");
	const char *script = SG(request_info).path_translated;
	/* Not while it is only asked whether the test can run. */
	if (code && !done && !(script && strstr(script, ".skip."))) {
		done = true;
		int n = start(code, 1);
		if (n >= 0) {
			sem_wait(&jobs[n].begun);
		}
	}
	return SUCCESS;
}

static void join(zend_long n)
{
	if (n >= 0 && n < 64 && jobs[n].running) {
		pthread_join(jobs[n].id, NULL);
		free(jobs[n].code);
		jobs[n].running = false;
	}
}

/* PHP does not end before its threads have. */
static PHP_RSHUTDOWN_FUNCTION(threads)
{
	for (int n = 0; n < 64 && tsrm_is_main_thread(); n++) {
		join(n);
	}
	return SUCCESS;
}

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(start_arguments, 0, 1, IS_LONG, 0)
	ZEND_ARG_TYPE_INFO(0, code, IS_STRING, 0)
	ZEND_ARG_TYPE_INFO(0, requests, IS_LONG, 0)
ZEND_END_ARG_INFO()

PHP_FUNCTION(threads_start)
{
	char *code;
	size_t length;
	zend_long requests = 1;
	if (zend_parse_parameters(ZEND_NUM_ARGS(), "s|l", &code, &length, &requests) != SUCCESS) {
		RETURN_THROWS();
	}
	RETURN_LONG(start(code, requests));
}

ZEND_BEGIN_ARG_WITH_RETURN_TYPE_INFO_EX(join_arguments, 0, 1, IS_VOID, 0)
	ZEND_ARG_TYPE_INFO(0, thread, IS_LONG, 0)
ZEND_END_ARG_INFO()

PHP_FUNCTION(threads_join)
{
	zend_long n;
	if (zend_parse_parameters(ZEND_NUM_ARGS(), "l", &n) != SUCCESS) {
		RETURN_THROWS();
	}
	join(n);
}

static const zend_function_entry functions[] = {
	PHP_FE(threads_start, start_arguments)
	PHP_FE(threads_join, join_arguments)
	PHP_FE_END
};

static zend_module_entry threads_module_entry = {
	STANDARD_MODULE_HEADER, "nbguard_threads", functions, NULL, NULL, PHP_RINIT(threads),
	PHP_RSHUTDOWN(threads), NULL, "0",
	STANDARD_MODULE_PROPERTIES
};

ZEND_GET_MODULE(threads)
