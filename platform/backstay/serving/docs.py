"""The page /docs. Swagger UI comes from the package fastapi-swagger, not from a CDN."""

from importlib import resources

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_ASSETS = "/docs/assets"


def install(app: FastAPI) -> None:
    """Add /docs and the files that it loads."""
    files = str(resources.files("fastapi_swagger") / "resources")
    app.mount(_ASSETS, StaticFiles(directory=files))
    app.add_api_route("/docs", _page, include_in_schema=False)


async def _page(request: Request) -> HTMLResponse:
    root = request.scope.get("root_path", "").rstrip("/")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Backstay",
        swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{_ASSETS}/favicon-32x32.png",
        swagger_ui_parameters={"validatorUrl": None},  # it would send the schema to swagger.io
    )
